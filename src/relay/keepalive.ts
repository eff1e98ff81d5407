import { controlTexts } from '../protocol/control-messages.ts';
import type { RunningSession } from './session.ts';

/**
 * Keepalive texts of R21: at each interval both halves of every session get one, except where a half asked for none.
 * One timer for all sessions; the WebSocket pings that find dead connections are the forwarder's.
 */
export class Keepalive {
  readonly #sessions: () => Iterable<RunningSession>;
  #timers: NodeJS.Timeout[] = [];

  constructor(sessions: () => Iterable<RunningSession>) {
    this.#sessions = sessions;
  }

  /** Seconds; 0: off. Takes the place of what was set before. */
  set(pingSeconds: number, pongSeconds: number): void {
    this.stop();
    for (const [seconds, text] of [
      [pingSeconds, controlTexts.ping],
      [pongSeconds, controlTexts.pong],
    ] as const) {
      if (seconds > 0) this.#timers.push(setInterval(() => this.#send(text), seconds * 1000).unref());
    }
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#timers = [];
  }

  #send(text: string): void {
    for (const session of this.#sessions()) {
      if (session.noping) continue;
      session.pair.sendText('user', text);
      session.pair.sendText('device', text);
    }
  }
}
