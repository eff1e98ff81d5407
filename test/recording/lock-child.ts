import { openSync } from 'node:fs';
import { tryLockFile } from '../../src/native/file-lock.ts';

// Run by the locks' test, which kills it: holds the lock that a recorder holds.
process.send!(tryLockFile(openSync(process.argv[2]!, 'r+'), 'exclusive') ? 'locked' : 'not locked');
process.on('message', () => undefined);
