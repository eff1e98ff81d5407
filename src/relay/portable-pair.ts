import type { Outcome } from '../core/outcome.ts';
import { closeCodes, linkEnding } from '../protocol/close-codes.ts';
import { type PairEnd, type PairOptions, type PairRecording, type PairStatistics, throttling } from './forwarder.ts';
import type { Side } from './half.ts';
import { End, type Pace, type PauseReason, pauseReasons } from './portable-end.ts';
import type {
  CloseFrame,
  PortableForwarder,
  PortableReceiver,
  PortableSocket,
  SocketEnd,
} from './portable-forwarder.ts';

/** One socket read may come on top of the high-water mark and one message (R23). */
const readBytes = 524_288;

/**
 * From a half's close to the end of its connection; HalfSocket.close() keeps its own deadline of 2 s, this one catches
 * a socket that does not report its end.
 */
const closeMs = 3000;

/** A close frame without a code. */
const noStatus = 1005;

function linkCause(side: Side, code: number): { outcome: Outcome; closedBy: Side | 'relay'; error: string } {
  const { outcome, error, closedBy } = linkEnding(code === noStatus ? closeCodes.normal : code);
  return { outcome, error, closedBy: closedBy === 'half' ? side : 'relay' };
}

/** Two halves of the portable path. The rules it follows are those of native/half.cc. */
export class PortablePair {
  readonly #forwarder: PortableForwarder;
  readonly #user: End;
  readonly #device: End;
  readonly #options: PairOptions;
  readonly #paces: readonly Pace[];
  readonly #onEnd: (end: PairEnd) => void;
  #recording: PairRecording | undefined;
  #scheduled = false;
  #idleMs = 0;
  #cause: { outcome: Outcome; closedBy: Side | 'relay'; error: string } | undefined;
  #reported = false;

  constructor(
    forwarder: PortableForwarder,
    user: PortableSocket,
    device: PortableSocket,
    options: PairOptions,
    paces: readonly Pace[],
    onEnd: (end: PairEnd) => void,
  ) {
    this.#forwarder = forwarder;
    this.#user = new End(user, 'user');
    this.#device = new End(device, 'device');
    this.#options = options;
    this.#paces = paces;
    this.#onEnd = onEnd;
    this.#recording = options.recording;
  }

  start(greeting: string): void {
    this.#recording?.listen({
      holdBack: () => {
        for (const end of [this.#user, this.#device]) if (end.stage === 'open') this.#pause(end, 'recorderPaused');
      },
      goOn: () => {
        for (const end of [this.#user, this.#device]) this.#unpause(end, 'recorderPaused');
      },
      failed: () => this.#recordingFailed(),
    });
    if (greeting !== '') {
      this.sendText('user', greeting);
      this.sendText('device', greeting);
    }
    this.#user.socket.attach(this.#receiver(this.#user, this.#device));
    this.#device.socket.attach(this.#receiver(this.#device, this.#user));
  }

  sendText(to: Side, text: string): void {
    const end = to === 'user' ? this.#user : this.#device;
    if (end.stage === 'open') this.#push(end, text, false, text.length);
  }

  end(outcome: Outcome, code: number, reason: string, drain: boolean, error = ''): void {
    if (this.#cause !== undefined) return;
    this.#cause = { outcome, closedBy: 'relay', error };
    this.#close(this.#user, code, reason, drain);
    this.#close(this.#device, code, reason, drain);
  }

  statistics(): PairStatistics {
    const nowMs = this.#forwarder.clock.monotonicMs();
    return {
      bytesUserToDevice: this.#user.bytes,
      bytesDeviceToUser: this.#device.bytes,
      messagesUserToDevice: this.#user.messages,
      messagesDeviceToUser: this.#device.messages,
      ...throttling(this.#user.throttledAt(nowMs), this.#device.throttledAt(nowMs)),
      bufferedBytes: this.#user.backlog + this.#device.backlog,
    };
  }

  /** Sends what was queued in this turn. */
  flush(): void {
    this.#scheduled = false;
    for (const end of [this.#user, this.#device]) this.#flushEnd(end);
  }

  tick(ms: number): void {
    this.#idleMs += ms;
    if (this.#cause === undefined && this.#options.idleMs > 0 && this.#idleMs > this.#options.idleMs) {
      this.end('idle', closeCodes.idle, 'relay.idleMs: no message', false);
    }
    for (const [end, mate] of [
      [this.#user, this.#device],
      [this.#device, this.#user],
    ] as const) {
      if (end.stage === 'gone') continue;
      if (end.stage === 'open') this.#check(end, ms);
      else this.#checkDeadline(end, ms);
      if (end.pacePaused && !this.#paces.some((pace) => pace.spent)) this.#unpause(end, 'pacePaused');
      if (mate.backlog <= this.#options.lowWaterBytes) this.#unpause(end, 'flowPaused');
      if (end.backlog <= this.#options.lowWaterBytes) this.#unpause(end, 'pongPaused');
    }
  }

  #receiver(end: End, mate: End): PortableReceiver {
    return {
      message: (data, isBinary) => this.#message(end, mate, data, isBinary),
      drained: () => this.#drained(end, mate),
      pong: () => {
        end.silentMs = end.pingMs = 0;
      },
      pinged: () => this.#pinged(end),
      closed: (how, close) => this.#closed(end, mate, how, close),
    };
  }

  // uWebSockets.js answers pings by itself and without a bound: one who pings and does not read is not read either.
  #pinged(end: End): void {
    end.silentMs = end.pingMs = 0;
    const { highWaterBytes, maxMessageBytes } = this.#options;
    if (end.stage !== 'open' || end.backlog <= highWaterBytes) return;
    this.#pause(end, 'pongPaused');
    this.#capUnpausable(end, end.backlog > highWaterBytes + maxMessageBytes + readBytes);
  }

  /** Without the addon's pause a backlog can only be capped. */
  #capUnpausable(sender: End, isFull: boolean): void {
    if (sender.socket.canPause || !isFull) return;
    this.end('slow', closeCodes.slow, 'relay.highWaterBytes: the backlog is full', false, 'stalled');
  }

  #message(end: End, mate: End, data: ArrayBuffer | Uint8Array, isBinary: boolean): void {
    end.silentMs = end.pingMs = 0;
    if (end.stage !== 'open' || mate.stage !== 'open') return;
    const bytes = data.byteLength;
    // uWebSockets.js checks the limit of the server's start; a reload may have lowered it since.
    if (bytes > this.#options.maxMessageBytes) {
      return this.end('limit', closeCodes.tooBig, 'relay.maxMessageBytes exceeded', false, 'too-big');
    }
    this.#idleMs = 0;
    end.bytes += bytes;
    end.messages++;
    const sums = this.#forwarder.sums;
    if (end.side === 'user') {
      sums.bytesUserToDevice += bytes;
      sums.messagesUserToDevice++;
    } else {
      sums.bytesDeviceToUser += bytes;
      sums.messagesDeviceToUser++;
    }
    this.#push(mate, this.#forwarder.copy(data), isBinary, bytes);
    if (this.#recording !== undefined) this.#record(this.#recording, end, data, isBinary);
    if (this.#paces.length > 0) {
      for (const pace of this.#paces) pace.charge(bytes);
      if (this.#paces.some((pace) => pace.spent)) this.#pause(end, 'pacePaused');
    }
    const { highWaterBytes, maxMessageBytes } = this.#options;
    // What the socket had buffered when it was last asked it still has at most: asking is a call out of JavaScript.
    if (mate.queuedBytes + mate.lastBuffered <= highWaterBytes || mate.backlog <= highWaterBytes) return;
    this.#pause(end, 'flowPaused');
    this.#capUnpausable(end, mate.backlog > highWaterBytes + maxMessageBytes + readBytes);
  }

  #record(recording: PairRecording, end: End, data: ArrayBuffer | Uint8Array, isBinary: boolean): void {
    const bytes = data instanceof Uint8Array ? new Uint8Array(data).buffer : data;
    if (!recording.append(end.side, bytes, isBinary)) this.#recordingFailed();
    else if (recording.holdsBack()) {
      this.#pause(end, 'recorderPaused');
      this.#capUnpausable(end, true);
    }
  }

  // R35: the recorder tells why.
  #recordingFailed(): void {
    const strict = this.#recording?.strict;
    this.#recording = undefined;
    for (const end of [this.#user, this.#device]) this.#unpause(end, 'recorderPaused');
    if (strict) this.end('recording-failed', closeCodes.recordingFailed, 'the recording failed', false);
  }

  #push(end: End, data: ArrayBuffer | Uint8Array | string, isBinary: boolean, bytes: number): void {
    end.queue.push({ data, isBinary });
    end.queuedBytes += bytes;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#forwarder.schedule(this);
  }

  #flushEnd(end: End): void {
    if (end.stage === 'gone' || end.stage === 'closing') return;
    if (end.queue.length > 0) {
      const queue = end.queue;
      end.queue = [];
      end.queuedBytes = 0;
      end.socket.cork(() => {
        for (const { data, isBinary } of queue) end.socket.send(data, isBinary);
      });
      end.lastBuffered = end.socket.bufferedBytes();
    }
    this.#drained(end, end === this.#user ? this.#device : this.#user);
  }

  #drained(end: End, mate: End): void {
    const buffered = end.stage === 'gone' ? 0 : end.socket.bufferedBytes();
    if (buffered < end.lastBuffered || buffered === 0) end.stalledMs = 0;
    end.lastBuffered = buffered;
    if (end.stage === 'draining' && end.backlog === 0) this.#sendClose(end);
    if (end.backlog > this.#options.lowWaterBytes) return;
    this.#unpause(mate, 'flowPaused');
    this.#unpause(end, 'pongPaused');
  }

  #pause(end: End, why: PauseReason): void {
    if (end[why] || !end.socket.canPause) return;
    const { paused, throttled } = end;
    const nowMs = this.#forwarder.clock.monotonicMs();
    if (why === 'flowPaused') {
      this.#forwarder.sums.flowPauses++;
      end.flowSinceMs = nowMs;
    }
    end[why] = true;
    if (end.throttled && !throttled) end.throttledSinceMs = nowMs;
    if (!paused) end.socket.pause();
  }

  #unpause(end: End, why: PauseReason): void {
    if (!end[why]) return;
    const { throttledMs, flowPausedMs } = end.throttledAt(this.#forwarder.clock.monotonicMs());
    end[why] = false;
    const { sums } = this.#forwarder;
    if (why === 'flowPaused') {
      sums.flowPausedSeconds += (flowPausedMs - end.flowPausedMs) / 1000;
      end.flowPausedMs = flowPausedMs;
    }
    if (!end.throttled) {
      sums.throttledSeconds += (throttledMs - end.throttledMs) / 1000;
      end.throttledMs = throttledMs;
    }
    if (end.paused) return;
    end.silentMs = end.pingMs = 0;
    if (end.stage !== 'gone') end.socket.resume();
  }

  #unpauseAll(end: End): void {
    for (const why of pauseReasons) this.#unpause(end, why);
  }

  // Stalls by progress, silence by pings; a half with a backlog or one that is not read is judged by progress alone.
  #check(end: End, ms: number): void {
    if (end.backlog > 0) {
      const buffered = end.socket.bufferedBytes();
      end.stalledMs = buffered < end.lastBuffered ? 0 : end.stalledMs + ms;
      end.lastBuffered = buffered;
      // Of a link the far server judges, which has the half that does not read.
      if (end.stalledMs >= this.#options.stallMs && !end.socket.isLink) {
        this.end('slow', closeCodes.slow, 'relay.stallMs: no progress', false, 'stalled');
      }
      return;
    }
    end.stalledMs = 0;
    if (this.#options.pingMs === 0) return;
    if (end.paused) {
      // The far server's pings wait unread as long as a half here is slow: these tell it that this server lives.
      if (!end.socket.isLink) return;
      end.pingMs += ms;
      if (end.pingMs < this.#options.pingMs) return;
      end.pingMs = 0;
      return end.socket.ping();
    }
    end.silentMs += ms;
    if (end.pingMs > 0) {
      end.pingMs += ms;
      if (end.pingMs <= this.#options.pingMs) return;
      this.#lost(end, 'ping-timeout');
      end.socket.terminate();
    } else if (end.silentMs >= this.#options.pingMs) {
      end.pingMs = ms;
      end.socket.ping();
    }
  }

  #checkDeadline(end: End, ms: number): void {
    end.deadlineMs -= ms;
    if (end.deadlineMs > 0) return;
    if (end.stage === 'draining' && end.keepsTail && this.#cause?.outcome === 'normal') {
      // A tail that was promised and could not be delivered is not a normal end.
      this.#cause = { ...this.#cause, outcome: 'slow', error: 'stalled' };
    }
    end.socket.terminate();
  }

  /** Starts a half's end. `keepTail`: what is queued before the close is still delivered. */
  #close(end: End, code: number, reason: string, keepTail: boolean): void {
    if (end.stage !== 'open') return;
    end.stage = 'draining';
    end.close = { code, reason };
    end.keepsTail = keepTail;
    end.deadlineMs = keepTail ? this.#options.lingerMs : closeMs;
    if (!keepTail) {
      end.queue = [];
      end.queuedBytes = 0;
    }
    this.#unpauseAll(end);
    if (!keepTail) this.#sendClose(end);
    else this.#schedule();
  }

  #sendClose(end: End): void {
    end.stage = 'closing';
    // The far server answers a link once it has read up to the close frame. Closed before, the connection would be reset
    // by anything that still comes, and the tail lost.
    end.deadlineMs = end.socket.isLink && end.keepsTail ? this.#options.lingerMs : closeMs;
    const close = end.close!;
    end.socket.close(close.code, close.reason);
    this.#report();
  }

  #closed(end: End, mate: End, how: SocketEnd, close: CloseFrame | undefined): void {
    if (end.stage === 'gone') return;
    const wasOpen = end.stage === 'open';
    const linkClose = how === 'clean' && end.socket.isLink ? close : undefined;
    if (wasOpen) {
      if (linkClose !== undefined) this.#cause ??= linkCause(end.side, linkClose.code);
      else if (how === 'clean') this.#cause ??= { outcome: 'normal', closedBy: end.side, error: '' };
      else if (how === 'too-big') this.#cause ??= { outcome: 'limit', closedBy: 'relay', error: 'too-big' };
      else this.#lost(end, 'broken');
    }
    end.stage = 'gone';
    end.queue = [];
    end.queuedBytes = 0;
    this.#unpauseAll(end);
    if (wasOpen && linkClose !== undefined) this.#closeAsLink(mate, linkClose);
    else if (wasOpen) this.#closeMate(mate, how);
    this.#report();
    if (mate.stage === 'gone') this.#forwarder.forget(this, this.#options);
  }

  #closeMate(mate: End, how: SocketEnd): void {
    if (how === 'clean') this.#close(mate, closeCodes.normal, 'peer closed', true);
    else if (how === 'too-big') this.#close(mate, closeCodes.tooBig, 'relay.maxMessageBytes exceeded', false);
    else this.#close(mate, closeCodes.peerError, 'peer connection lost', how === 'orderly');
  }

  // K3: what the link was closed with is the mate's, code and reason.
  #closeAsLink(mate: End, { code, reason }: CloseFrame): void {
    if (code === noStatus) this.#close(mate, closeCodes.normal, 'peer closed', true);
    else this.#close(mate, code, reason, linkEnding(code).keepsTail);
  }

  #lost(end: End, error: string): void {
    this.#cause ??= { outcome: 'peer-error', closedBy: end.side, error };
  }

  // R28: once, when both halves have their tail or are gone.
  #report(): void {
    const over = (end: End) => end.stage === 'closing' || end.stage === 'gone';
    if (this.#reported || this.#cause === undefined || !over(this.#user) || !over(this.#device)) return;
    this.#reported = true;
    this.#onEnd({ ...this.#cause, statistics: this.statistics() });
  }
}
