import type { Command } from 'commander';
import { registerApiToken } from './api-token.ts';
import { registerDevice } from './device.ts';
import type { DirectoryDeps } from './directory-options.ts';
import { registerGrant } from './grant.ts';
import { registerGroup } from './group.ts';
import { registerSession } from './session.ts';
import { registerShare } from './share.ts';
import { registerUser } from './user.ts';
import { registerUserGroup } from './usergroup.ts';

/** Adds every command of the directory: each does its work by calls of the API, of a server or over a data folder. */
export function registerDirectory(program: Command, deps: DirectoryDeps): void {
  registerUser(program, deps);
  registerUserGroup(program, deps);
  registerGroup(program, deps);
  registerDevice(program, deps);
  registerGrant(program, deps);
  registerShare(program, deps);
  registerSession(program, deps);
  registerApiToken(program, deps);
}
