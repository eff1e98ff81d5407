import { readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import type { Command } from 'commander';
import { ApiClient } from '../clients/api.ts';
import type { TransportSecurity } from '../clients/open-tunnel.ts';
import { readPasswordLine } from '../clients/password.ts';
import { CoupletError } from '../core/errors.ts';

/** How the server's certificate is judged, as given on the command line. */
export interface SecurityOptions {
  readonly ca?: string;
  readonly insecure?: boolean;
}

/** Who calls the API, as given on the command line. */
export interface LoginOptions extends SecurityOptions {
  readonly url: string;
  readonly user?: string;
  readonly passwordStdin?: boolean;
  readonly token?: string;
  readonly tokenFile?: string;
}

export function addSecurityOptions(command: Command): Command {
  return command
    .option('--ca <FILE>', "PEM file of the authority that signed the server's certificate")
    .option('--insecure', "take any certificate (for tests; the server's identity is then not proven)");
}

export function addLoginOptions(command: Command): Command {
  return addSecurityOptions(
    command
      .requiredOption('--url <URL>', 'the server: https://HOST or http://HOST:PORT')
      .option('--user <NAME>', 'log in as this user')
      .option('--password-stdin', 'read the password from the first line of standard input')
      .option('--token <TOKEN>', 'API token (others can see the command line: prefer --token-file)')
      .option('--token-file <FILE>', 'file that holds the API token'),
  );
}

/** @throws CoupletError `CPL_CLIENT_OPTIONS` */
export function readSecurity({ ca, insecure }: SecurityOptions): TransportSecurity {
  return { ...(ca !== undefined && { ca: readFile(ca, '--ca') }), ...(insecure === true && { insecure }) };
}

/**
 * A client that is logged in, by token or by password. Of `stdin` the first line is read where it holds the password.
 * @param ask where there is somebody to ask for the password
 * @throws CoupletError (as rejection) `CPL_CLIENT_OPTIONS`, or of the API
 */
export async function logIn(
  options: LoginOptions,
  stdin: () => Readable,
  signal: AbortSignal,
  ask?: (prompt: string, signal: AbortSignal) => Promise<string>,
): Promise<ApiClient> {
  const { url, user, passwordStdin, token, tokenFile } = options;
  const isAsked = ask !== undefined && user !== undefined && (passwordStdin ?? token ?? tokenFile) === undefined;
  if (!isAsked && [passwordStdin, token, tokenFile].filter((value) => value !== undefined).length !== 1) {
    throw optionsError('give exactly one of --password-stdin, --token and --token-file');
  }
  const security = readSecurity(options);
  if (!isAsked && passwordStdin !== true) {
    return new ApiClient(url, security, (token ?? readFile(tokenFile ?? '', '--token-file')).trim());
  }
  if (user === undefined) throw optionsError('--password-stdin needs --user NAME');
  const api = new ApiClient(url, security);
  const password = isAsked ? await ask(`${user}'s password: `, signal) : await readPasswordLine(stdin(), signal);
  await api.login(user, password, signal);
  return api;
}

export function readFile(path: string, option: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new CoupletError('CPL_CLIENT_OPTIONS', `cannot read ${option} ${JSON.stringify(path)}: ${why}`, { cause });
  }
}

export function optionsError(message: string): CoupletError {
  return new CoupletError('CPL_CLIENT_OPTIONS', message);
}

/** A whole number within bounds. @throws CoupletError `CPL_CLIENT_OPTIONS` */
export function readNumber(value: string, option: string, min: number, max: number): number {
  const number = /^\d{1,9}$/.test(value) ? Number(value) : -1;
  if (number < min || number > max) {
    throw optionsError(`${option} is ${JSON.stringify(value)}; it must be a whole number of ${min} to ${max}`);
  }
  return number;
}
