// Run by json-lines.test.ts: emits "session started" and is gone, without a turn of the event loop in between.
import { Events } from '../../src/audit/events.ts';
import { openJsonLinesSink } from '../../src/audit/sinks/json-lines.ts';
import { systemClock } from '../../src/core/clock.ts';
import { session } from './support.ts';

const [folder, key] = process.argv.slice(2) as [string, string];
const sink = await openJsonLinesSink({ folder, key: Buffer.from(key, 'hex'), clock: systemClock });
const events = new Events({ clock: systemClock, sinks: [sink] });
events.sessionStarted(session);
process.kill(process.pid, 'SIGKILL');
console.log('still alive');
