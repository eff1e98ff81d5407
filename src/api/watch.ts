import type { DirectoryChange } from '../directory/directory.ts';
import { identify } from './callers.ts';
import { unauthorized } from './errors.ts';
import { Permissions } from './permissions.ts';
import type { Caller } from './request.ts';
import type { Call } from './route.ts';

/** Credentials that end by the clock are found out by then; everything else is a change of the directory. */
const recheckMs = 10_000;

/** Who the caller is now. */
export interface Standing {
  readonly caller: Caller;
  readonly may: Permissions;
}

export interface CallerWatch {
  /** Aborts when the caller may not go on; its reason is the error. */
  readonly signal: AbortSignal;
  /** What holds now. */
  readonly standing: Standing;
  stop(): void;
}

/**
 * Asks again whether the caller of an answer that takes long may go on [T4]: on every change of the directory that
 * names the caller or the domain, and every 10 s. Where the credential does not hold any more, or `check` throws, the
 * signal aborts, within 1 s of the change.
 */
export function watchCaller(call: Call, check: (standing: Standing) => void): CallerWatch {
  const { parts, request, domain } = call;
  const ended = new AbortController();
  let standing: Standing = call;
  let isChecking = false;
  let again = false;

  const recheck = async () => {
    if (isChecking) {
      again = true;
      return;
    }
    isChecking = true;
    try {
      do {
        again = false;
        const caller = await identify(parts, request);
        if (caller.kind === 'nobody') throw unauthorized();
        const may = new Permissions(parts.directory, caller, domain);
        await may.requireDomain();
        check({ caller, may });
        standing = { caller, may };
      } while (again && !ended.signal.aborted);
    } catch (error) {
      // Also where the database cannot be asked: nobody knows whether the caller may go on.
      stop();
      ended.abort(error);
    } finally {
      isChecking = false;
    }
  };
  const concerns = ({ all, users, domains }: DirectoryChange) =>
    all || domains.includes(domain) || ('user' in call.caller && users.includes(call.caller.user.id));
  const unlisten = parts.directory.onChange((change) => {
    if (concerns(change)) void recheck();
  });
  const timer = setInterval(() => void recheck(), recheckMs).unref();
  function stop(): void {
    unlisten();
    clearInterval(timer);
  }
  // What changed between the check of the request and now was not heard.
  void recheck();
  return {
    signal: ended.signal,
    get standing() {
      return standing;
    },
    stop,
  };
}
