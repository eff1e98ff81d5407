/** A command or a connection took longer than it may. */
export class DeadlineError extends Error {}

/**
 * What `work` gives, or a DeadlineError after `withinMs`. The work itself goes on; what comes of it late is nobody's.
 * An answer that has come while this event loop stood still is in time: it is read before the deadline is judged.
 */
export function within<T>(work: Promise<T>, withinMs: number, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = () => reject(new DeadlineError(`${what} took longer than ${withinMs} ms`));
    const timer = setTimeout(() => setImmediate(late), withinMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
