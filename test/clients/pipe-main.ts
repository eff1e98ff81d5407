import { Command } from 'commander';
import { LoginKey } from '../../src/auth/keys.ts';
import { registerPipe } from '../../src/cli/pipe.ts';
import { processIo } from '../../src/clients/standard-io.ts';

/** `couplet pipe` alone, for tests that run it as a process of its own. */
const program = new Command();
registerPipe(program, {
  resolveLoginKey: ({ loginKey, loginKeyFile }) =>
    loginKeyFile === undefined ? LoginKey.parse(loginKey ?? '') : LoginKey.readFile(loginKeyFile),
  io: processIo,
});
await program.parseAsync();
