import type { WebSocket } from 'uWebSockets.js';

const open = new Set<WebSocket<unknown>>();

/** Every WebSocket of this thread's uWebSockets.js, from its `open` to its `close`: see `PendingUpgrade.accept`. */
export const openSockets = {
  add(ws: object): void {
    open.add(ws as WebSocket<unknown>);
  },
  delete(ws: object): void {
    open.delete(ws as WebSocket<unknown>);
  },
  /** One of them. */
  any(): WebSocket<unknown> | undefined {
    for (const ws of open) return ws;
    return undefined;
  },
};
