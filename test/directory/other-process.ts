import { systemClock } from '../../src/core/clock.ts';
import { openDirectory } from '../../src/directory/open.ts';

/** Opens the directory that the first argument says and does what it is sent: `[part, method, ...arguments]`. */
const options = JSON.parse(process.argv[2]!) as { directory: string; file: string };
const directory = await openDirectory({
  ...options,
  clock: systemClock,
  onError: (error) => process.send!({ background: String(error) }),
});
const parts = directory as unknown as Record<string, Record<string, (...args: unknown[]) => Promise<unknown>>>;
process.on('message', async ([part, method, ...args]: [string, string, ...unknown[]]) => {
  try {
    process.send!({ value: await parts[part]![method]!(...args) });
  } catch (error) {
    process.send!({ error: String(error) });
  }
});
process.on('disconnect', () => void directory.close());
process.send!('ready');
