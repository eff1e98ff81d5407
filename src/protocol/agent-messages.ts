import { z } from 'zod';
import { isPrintableId, parseId } from '../core/ids.ts';
import { type TunnelCommand, tunnelCommandSchema } from './tunnel-command.ts';

/*
 * [T9][T10] The wire format of the agent's control channel; this file and its neighbours agent-proofs.ts (what is signed)
 * and tunnel-command.ts (T6) define it.
 *
 * A WebSocket on `/agent`. Every message is one text message: a JSON object with a `type`. In order:
 *
 *   server → agent   hello          at once, with a challenge that is used for this connection and never again
 *   agent → server   enrol          a new device: proof of its join code, its public key, its signature
 *            or      authenticate   a known device: its nodeid, its signature
 *   server → agent   accepted       the device is online; or
 *                    refused        and the server closes
 *   then, at any time
 *   both ways        heartbeat      every `heartbeatMs`; who hears nothing at all for `silenceLimitMs` hangs up
 *   server → agent   tunnel         T6
 *   agent → server   tunnel-refused, tunnel-failed    why a tunnel command came to nothing
 *   server → agent   replaced       a newer connection of the same device took over; the server closes
 *   server → agent   revoked        the device was removed or its key withdrawn; the server closes
 *
 * Nothing that crosses the wire is of use a second time: signatures and the proof of the join code cover the challenge,
 * and neither the private key nor the join code is ever sent. A message of a type that the reader does not know is
 * ignored (a newer peer); one of a known type with wrong fields is a protocol error (1002).
 */

export const agentPath = '/agent';
export const agentProtocolVersion = 1;
/** Largest message either way, bytes. */
export const maxAgentMessageBytes = 64 * 1024;
/** [T10] Default interval of heartbeats: an agent that vanishes is offline within 30 s (see {@link silenceLimitMs}). */
export const defaultHeartbeatMs = 10_000;

/** [T10] Silence after which the other end is taken for gone: one heartbeat may be lost and one be late. */
export function silenceLimitMs(heartbeatMs: number): number {
  return 2.5 * heartbeatMs;
}

/** Bytes in base64url without padding, of one exact length. */
function bytesText(length: number): z.ZodString {
  return z.string().regex(new RegExp(`^[A-Za-z0-9_-]{${Math.ceil((length * 4) / 3)}}$`));
}

const name = z.string().min(1).max(256);
const nodeid = z.string().refine((id) => parseId(id)?.kind === 'node');
const sessionId = z.string().refine(isPrintableId);
const reasonDetail = z.string().max(500);
/** `HOST:PORT` of the URL that the agent dialled, see `agentHost`. */
const host = z.string().min(3).max(300);

/** What a device says of itself; unproven, for display. */
export const deviceFactsSchema = z.object({
  hostname: z.string().max(256),
  /** `linux`, `win32`, `darwin`, … */
  platform: z.string().max(32),
  /** Version of the agent. */
  version: z.string().max(64),
  /** What it can serve: `tcp`, `udp`, `terminal`. */
  capabilities: z.array(z.string().max(32)).max(32),
});
export type DeviceFacts = z.infer<typeof deviceFactsSchema>;

const hello = z.object({
  type: z.literal('hello'),
  version: z.literal(agentProtocolVersion),
  /** Names the server (or cluster) for good; an agent that knows another one refuses to go on. */
  serverId: name,
  /** 32 random bytes, fresh for each connection. */
  challenge: bytesText(32),
  /** The server's wall clock, epoch ms: tells in a log why a certificate or cookie is found too old. */
  timeMs: z.int().nonnegative(),
});

const enrol = z.object({
  type: z.literal('enrol'),
  /** `joinCodeId` of the join code: finds it without telling it. */
  joinId: bytesText(16),
  /** `proveJoin`: HMAC under the join code's key. */
  joinProof: bytesText(32),
  /** The device's Ed25519 public key, raw. */
  publicKey: bytesText(32),
  host,
  /** `signEnrol`: the device holds the private key. */
  signature: bytesText(64),
  facts: deviceFactsSchema,
});

const authenticate = z.object({
  type: z.literal('authenticate'),
  nodeid,
  host,
  /** `signAuthenticate`. */
  signature: bytesText(64),
  facts: deviceFactsSchema,
});

const accepted = z.object({
  type: z.literal('accepted'),
  nodeid,
  /** The device's name in the directory. */
  name,
  heartbeatMs: z.int().min(50).max(60_000),
});

/** Why a server does not take an agent. Only after `unavailable` is it of use to try again. */
export const refusalReasons = [
  /** The join code is unknown, used or expired, or its proof is wrong: one answer for all of them. */
  'join-code',
  /** No such device, or a signature that is not its key's: one answer for both. */
  'credentials',
  'revoked',
  /** `host` is none of the server's own names. */
  'host',
  'protocol',
  'unavailable',
] as const;
export type RefusalReason = (typeof refusalReasons)[number];

const refused = z.object({ type: z.literal('refused'), reason: z.enum(refusalReasons) });
const heartbeat = z.object({ type: z.literal('heartbeat') });
const replaced = z.object({ type: z.literal('replaced') });
const revoked = z.object({ type: z.literal('revoked') });

/** The agent will not do what a tunnel command asks (T8). `id` is the session id in the command's value. */
const tunnelRefused = z.object({
  type: z.literal('tunnel-refused'),
  id: sessionId,
  /** `target`: not on the agent's list. `protocol`: not served here. `rights`: the command's own rights forbid it. */
  reason: z.enum(['target', 'protocol', 'rights', 'busy']),
  detail: reasonDetail,
});

/** The agent tried and could not. */
const tunnelFailed = z.object({
  type: z.literal('tunnel-failed'),
  id: sessionId,
  /** `dial`: the target does not answer. `relay`: the device half could not be opened. `terminal`: no shell. */
  reason: z.enum(['dial', 'relay', 'terminal']),
  detail: reasonDetail,
});

/** What an agent reports, as one server passes it on to another [K4]. */
export const tunnelReportSchema = z.discriminatedUnion('type', [tunnelRefused, tunnelFailed]);

const serverSchemas = { hello, accepted, refused, heartbeat, tunnel: tunnelCommandSchema, replaced, revoked };
const agentSchemas = {
  enrol,
  authenticate,
  heartbeat,
  'tunnel-refused': tunnelRefused,
  'tunnel-failed': tunnelFailed,
};

export type Hello = z.infer<typeof hello>;
export type Enrol = z.infer<typeof enrol>;
export type Authenticate = z.infer<typeof authenticate>;
export type Accepted = z.infer<typeof accepted>;
export type TunnelReport = z.infer<typeof tunnelRefused> | z.infer<typeof tunnelFailed>;

/** What a server says. */
export type ServerMessage =
  | Hello
  | Accepted
  | z.infer<typeof refused>
  | z.infer<typeof heartbeat>
  | TunnelCommand
  | z.infer<typeof replaced>
  | z.infer<typeof revoked>;

/** What an agent says. */
export type AgentMessage = Enrol | Authenticate | z.infer<typeof heartbeat> | TunnelReport;

/** `unknown-type` is to be ignored; with any other fault the channel is closed (1002). `detail` holds no value sent. */
export type ReadResult<M> =
  | { readonly ok: true; readonly message: M }
  | { readonly ok: false; readonly fault: 'unknown-type' | 'not-json' | 'fields'; readonly detail: string };

/** Reads what came from a server. Never throws. */
export function readServerMessage(text: string): ReadResult<ServerMessage> {
  return read<ServerMessage>(text, serverSchemas);
}

/** Reads what came from an agent. Never throws. */
export function readAgentMessage(text: string): ReadResult<AgentMessage> {
  return read<AgentMessage>(text, agentSchemas);
}

/** The text of a message. */
export function writeMessage(message: ServerMessage | AgentMessage): string {
  return JSON.stringify(message);
}

function read<M>(text: string, schemas: Readonly<Record<string, z.ZodType<M>>>): ReadResult<M> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { ok: false, fault: 'not-json', detail: 'a message is not JSON' };
  }
  const type = (value as { type?: unknown } | null)?.type;
  if (typeof type !== 'string') return { ok: false, fault: 'fields', detail: 'a message has no type' };
  const schema = Object.hasOwn(schemas, type) ? schemas[type] : undefined;
  if (schema === undefined) return { ok: false, fault: 'unknown-type', detail: 'a message has an unknown type' };
  const parsed = schema.safeParse(value);
  if (parsed.success) return { ok: true, message: parsed.data };
  const issue = parsed.error.issues[0];
  return { ok: false, fault: 'fields', detail: `${type}.${issue?.path.join('.')}: ${issue?.code}` };
}
