import { isGreeting } from '../../protocol/control-messages.ts';
import type { ClientHalf } from '../connect.ts';
import { deferred, within } from '../waiting.ts';

/** A little longer than the relay holds a half whose mate does not come (R15). */
const mateWaitMs = 35_000;
const closeWaitMs = 2000;

/** [T11] Tells the user half why nothing comes, and leaves. Never rejects. */
export async function refuseTunnel(half: ClientHalf, text: string, signal: AbortSignal): Promise<void> {
  const greeted = deferred<void>();
  const onAbort = () => greeted.resolve();
  signal.addEventListener('abort', onAbort, { once: true });
  half.start({
    onText: (message) => {
      if (isGreeting(message)) greeted.resolve();
    },
    onBinary: () => undefined, // nothing is done with it
  });
  await within(Promise.race([greeted.promise, half.closed]), mateWaitMs);
  signal.removeEventListener('abort', onAbort);
  await within(half.sendText(text), closeWaitMs);
  half.close();
  await within(half.closed, closeWaitMs);
  half.terminate();
}
