import { spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../../src/core/clock.ts';
import { cacheFolder } from '../build.ts';

/** A self-made certificate and its key, as PEM files: one and the same for every peer that speaks TLS. */
export interface Certificate {
  readonly certFile: string;
  readonly keyFile: string;
}

const validDays = 365;
const leftMs = 24 * 3600 * 1000;

function filesIn(folder: string): Certificate {
  return { certFile: join(folder, 'cert.pem'), keyFile: join(folder, 'key.pem') };
}

/** Whether a certificate is there that is still good for a day. */
function usable({ certFile }: Certificate): boolean {
  let pem: Buffer;
  try {
    pem = readFileSync(certFile);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
  return Date.parse(new X509Certificate(pem).validTo) > systemClock.nowMs() + leftMs;
}

/** Why no certificate can be made here; `undefined` where one can. */
export function certificateUnavailable(): string | undefined {
  const { error } = spawnSync('openssl', ['version'], { stdio: 'ignore' });
  return error === undefined ? undefined : `openssl cannot be run (${error.message})`;
}

/** The certificate, ECDSA over P-256 as most servers have today, made where there is none yet. Throws with openssl's words. */
export function benchCertificate(folder = join(cacheFolder, 'tls')): Certificate {
  const files = filesIn(folder);
  if (usable(files)) return files;
  mkdirSync(cacheFolder, { recursive: true });
  // Made beside its place and moved as a whole: nobody ever gets the certificate of one maker with the key of another.
  const fresh = mkdtempSync(`${folder}.`);
  const made = filesIn(fresh);
  const options = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', `${validDays}`];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  const run = spawnSync('openssl', ['req', ...options, ...subject, '-keyout', made.keyFile, '-out', made.certFile], {
    encoding: 'utf8',
  });
  if (run.error !== undefined || run.status !== 0) {
    rmSync(fresh, { recursive: true });
    throw new Error(`openssl made no certificate: ${run.error?.message ?? run.stderr}`);
  }
  rmSync(folder, { recursive: true, force: true });
  try {
    renameSync(fresh, folder);
  } catch (error) {
    rmSync(fresh, { recursive: true });
    if (!usable(files)) throw error; // otherwise another process was faster: its certificate is as good
  }
  return files;
}
