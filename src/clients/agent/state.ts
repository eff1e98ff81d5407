import { createPrivateKey, type KeyObject } from 'node:crypto';
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { CoupletError } from '../../core/errors.ts';
import { ensureFolder, ensureSecretFile } from '../../core/lifecycle.ts';
import { mintDeviceKey, publicKeyOf } from '../../protocol/agent-proofs.ts';

const keyFile = 'agent.key';
const enrolmentFile = 'agent.json';

const enrolmentSchema = z.object({ nodeid: z.string().min(1), serverId: z.string().min(1), name: z.string() });

/** What a device remembers of its enrolment. */
export type Enrolment = z.infer<typeof enrolmentSchema>;

/**
 * [T9] An agent's state folder: `agent.key` (Ed25519 private key, PEM, mode 0600), made at the first start, and
 * `agent.json` (who this device is, and to which server), written when it is enrolled.
 */
export class AgentState {
  readonly folder: string;
  readonly privateKey: KeyObject;
  readonly publicKey: string;
  #enrolment: Enrolment | undefined;

  private constructor(folder: string, privateKey: KeyObject, enrolment: Enrolment | undefined) {
    this.folder = folder;
    this.privateKey = privateKey;
    this.publicKey = publicKeyOf(privateKey);
    this.#enrolment = enrolment;
  }

  /** @throws CoupletError `CPL_DATA_DIR`, or `CPL_AGENT_STATE` for files that others can read or that are damaged. */
  static open(folder: string): AgentState {
    ensureFolder(folder, '--state');
    const pem = ensureSecretFile(folder, keyFile, () =>
      mintDeviceKey().privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    );
    const path = join(folder, keyFile);
    if (process.platform !== 'win32' && (statSync(path).mode & 0o077) !== 0) {
      throw stateError(path, 'can be read by others; it must have mode 0600');
    }
    return new AgentState(folder, readKey(pem, path), readEnrolment(join(folder, enrolmentFile)));
  }

  /** `undefined`: not enrolled yet. */
  get enrolment(): Enrolment | undefined {
    return this.#enrolment;
  }

  /** Durable when it returns: the join code that led here cannot be used again. */
  enrolled(enrolment: Enrolment): void {
    const path = join(this.folder, enrolmentFile);
    try {
      writeFileSync(`${path}.new`, `${JSON.stringify(enrolment)}\n`, { mode: 0o600, flush: true });
      renameSync(`${path}.new`, path);
    } catch (cause) {
      throw stateError(path, `cannot be written (${(cause as NodeJS.ErrnoException).code})`, cause);
    }
    this.#enrolment = enrolment;
  }
}

function readKey(pem: string, path: string): KeyObject {
  try {
    const key = createPrivateKey(pem);
    if (key.asymmetricKeyType === 'ed25519') return key;
  } catch (cause) {
    throw stateError(path, 'holds no private key', cause);
  }
  throw stateError(path, 'holds a key of another kind; it must be Ed25519');
}

function readEnrolment(path: string): Enrolment | undefined {
  if (!existsSync(path)) return undefined;
  try {
    return enrolmentSchema.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch (cause) {
    throw stateError(path, 'is damaged; remove the folder and enrol the device anew', cause);
  }
}

function stateError(path: string, what: string, cause?: unknown): CoupletError {
  return new CoupletError('CPL_AGENT_STATE', `${JSON.stringify(path)} ${what}`, { level: 'error', cause });
}
