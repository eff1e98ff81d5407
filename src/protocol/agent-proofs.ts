import {
  createHash,
  createHmac,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  timingSafeEqual,
  verify,
} from 'node:crypto';

/*
 * [T9] What an agent proves on its control channel, and how. Every proof covers
 *
 *   LABEL NUL (LENGTH BYTES)*
 *
 * the label names the proof and its version, each field stands behind its length (32 bits, big endian) in UTF-8: no two
 * different lists of fields give the same bytes, and a proof of one kind is never one of another.
 *
 * `host` is HOST:PORT of the URL that the agent dialled. A hostile server that passes on another server's challenge gets
 * a signature over its own host. So the true server must hold `host` against *its own* names (configuration), and not
 * against the request's Host header, which the hostile server would write as it likes.
 */

const enrolLabel = 'couplet-agent-enrol/1';
const authenticateLabel = 'couplet-agent-authenticate/1';
const joinIdLabel = 'couplet-join-id/1';
const joinKeyLabel = 'couplet-join-key/1';

/** What both ends know of this connection. */
export interface HandshakeContext {
  readonly host: string;
  readonly serverId: string;
  readonly challenge: string;
}

/** [T9] A server's challenge for one connection: 32 random bytes, base64url. */
export function mintChallenge(): string {
  return randomBytes(32).toString('base64url');
}

/** HOST:PORT of a URL: lower case, IPv6 in brackets, the scheme's default port written out. */
export function agentHost(url: URL): string {
  const secure = url.protocol === 'wss:' || url.protocol === 'https:';
  return `${url.hostname.toLowerCase()}:${url.port || (secure ? '443' : '80')}`;
}

/** A new device key pair; `publicKey` as it goes over the wire (raw, base64url). */
export function mintDeviceKey(): { privateKey: KeyObject; publicKey: string } {
  const { privateKey } = generateKeyPairSync('ed25519');
  return { privateKey, publicKey: publicKeyOf(privateKey) };
}

/** The public half of an Ed25519 private key, raw, base64url. */
export function publicKeyOf(privateKey: KeyObject): string {
  return createPublicKey(privateKey).export({ format: 'jwk' }).x ?? '';
}

/** A new join code with 160 random bits. Any text of that strength will do as one. */
export function mintJoinCode(): string {
  return randomBytes(20).toString('base64url');
}

/** Finds a join code without telling it: what a server stores as its key in the directory. 16 bytes, base64url. */
export function joinCodeId(code: string): string {
  return createHash('sha256')
    .update(transcript(joinIdLabel, [code]))
    .digest()
    .subarray(0, 16)
    .toString('base64url');
}

/**
 * Proves a join code: what a server stores beside the id (32 bytes, base64url). As secret as the code itself, for as
 * long as the code is good.
 */
export function joinCodeKey(code: string): string {
  return createHash('sha256')
    .update(transcript(joinKeyLabel, [code]))
    .digest('base64url');
}

/** HMAC-SHA256 under {@link joinCodeKey}: whoever knows the code enrols this public key on this connection. */
export function proveJoin(joinKey: string, context: HandshakeContext, publicKey: string): string {
  return joinMac(joinKey, context, publicKey).toString('base64url');
}

export function verifyJoin(joinKey: string, context: HandshakeContext, publicKey: string, proof: string): boolean {
  const given = Buffer.from(proof, 'base64url');
  const expected = joinMac(joinKey, context, publicKey);
  return given.length === expected.length && timingSafeEqual(given, expected);
}

/** Ed25519 signature of a device that enrols: it holds the private key of the public key it names. */
export function signEnrol(privateKey: KeyObject, context: HandshakeContext): string {
  return sign(null, contextBytes(enrolLabel, context, publicKeyOf(privateKey)), privateKey).toString('base64url');
}

export function verifyEnrol(publicKey: string, context: HandshakeContext, signature: string): boolean {
  return verifySignature(publicKey, contextBytes(enrolLabel, context, publicKey), signature);
}

/** Ed25519 signature of a known device. */
export function signAuthenticate(privateKey: KeyObject, context: HandshakeContext, nodeid: string): string {
  return sign(null, contextBytes(authenticateLabel, context, nodeid), privateKey).toString('base64url');
}

export function verifyAuthenticate(
  publicKey: string,
  context: HandshakeContext,
  nodeid: string,
  signature: string,
): boolean {
  return verifySignature(publicKey, contextBytes(authenticateLabel, context, nodeid), signature);
}

function joinMac(joinKey: string, context: HandshakeContext, publicKey: string): Buffer {
  return createHmac('sha256', Buffer.from(joinKey, 'base64url'))
    .update(contextBytes(enrolLabel, context, publicKey))
    .digest();
}

/** False, never an error, for keys and signatures that are none. */
function verifySignature(publicKey: string, data: Buffer, signature: string): boolean {
  const given = Buffer.from(signature, 'base64url');
  if (given.length !== 64 || Buffer.from(publicKey, 'base64url').length !== 32) return false;
  try {
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' });
    return verify(null, data, key, given);
  } catch {
    return false; // 32 bytes that are no point of the curve
  }
}

function contextBytes(label: string, { host, serverId, challenge }: HandshakeContext, subject: string): Buffer {
  return transcript(label, [host, serverId, challenge, subject]);
}

function transcript(label: string, fields: readonly string[]): Buffer {
  const parts = [Buffer.from(`${label}\0`)];
  for (const field of fields) {
    const bytes = Buffer.from(field);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    parts.push(length, bytes);
  }
  return Buffer.concat(parts);
}
