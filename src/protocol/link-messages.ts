import { z } from 'zod';
import { isPrintableId } from '../core/ids.ts';
import { isProtocol } from './relay-query.ts';

/*
 * [K3] What servers of a cluster say to each other. Two kinds of WebSocket, both on the link listener:
 *
 *   /channel?hello=H    the peer channel: JSON requests, answers and beats
 *   /link?ticket=T      a link: the messages of one half, as they are
 *
 * Who dials proves itself by a sealed `dial` proof over the other side's challenge, who answers by a sealed `answer` proof
 * (header `x-couplet-proof` of the 101) over the dialler's. A proof names both boot ids, the kind and the direction, so
 * that it is of use in no other place; challenges are used once. On the channel the dialler's proof is its first message,
 * and its `hello` is sealed already: who has no key costs the listener nothing but a look.
 */

export const channelPath = '/channel';
export const linkPath = '/link';
/** Header of the 101 with the proof of who answers. */
export const proofHeader = 'x-couplet-proof';

/** Largest request and largest answer on the peer channel, bytes. */
export const maxAskBytes = 1024 * 1024;
export const maxAnswerBytes = 16 * 1024 * 1024;
/** Added to both for the frame of JSON around them. */
export const envelopeBytes = 1024;
/** Largest admission that a ticket may carry, bytes of JSON. */
export const maxAdmissionBytes = 16 * 1024;
/**
 * Longest ticket in a URL: uWebSockets.js takes no request whose head is longer than 4096 bytes. What is longer goes over
 * the channel first.
 */
export const maxUrlTicketChars = 3500;

/** 128 bits in base64url. */
const token = z.string().regex(/^[A-Za-z0-9_-]{22}$/);
export const bootSchema = token;
export const challengeSchema = token;

const text = z.string().max(4096);
const printable = z.string().refine(isPrintableId);
const side = z.enum(['user', 'device']);

/** An admitted half, as the relay's `Admission`; unknown keys are refused. */
export const admissionSchema = z.strictObject({
  domain: text,
  id: printable,
  identity: z.strictObject({
    kind: z.enum(['user', 'share', 'device', 'nouser', 'anonymous']),
    side,
    userid: text,
    username: text,
    guestname: text.optional(),
    shareid: text.optional(),
  }),
  protocol: z.number().refine((p) => p === 0 || isProtocol(p)),
  nodeid: text,
  browser: z.boolean(),
  noping: z.boolean(),
  hardClose: z.boolean(),
  address: z.string().max(256),
  expiresAtMs: z.number().optional(),
  issuedSeconds: z.number().optional(),
  routing: z
    .strictObject({
      nodeid: text,
      transport: z.enum(['tcp', 'udp', 'none']),
      port: z.int().min(0).max(65535),
      address: text,
    })
    .optional(),
});

export type LinkAdmission = z.infer<typeof admissionSchema>;

/** What a dialler of a channel says of itself in the URL, with its challenge. */
export const channelHelloSchema = z.strictObject({
  dir: z.literal('hello'),
  kind: z.literal('channel'),
  from: bootSchema,
  to: bootSchema,
  challenge: challengeSchema,
});

/** What a dialler of a channel proves: the challenge is that of the 101. */
export const channelDialSchema = z.strictObject({
  dir: z.literal('dial'),
  kind: z.literal('channel'),
  from: bootSchema,
  to: bootSchema,
  challenge: challengeSchema,
});

/** `next`: the challenge that the dialler has to prove. */
export const channelAnswerSchema = z.strictObject({
  dir: z.literal('answer'),
  kind: z.literal('channel'),
  from: bootSchema,
  to: bootSchema,
  challenge: challengeSchema,
  next: challengeSchema,
});

/** A link's ticket: the challenge is the owner's, got over the channel; `reply` the dialler's own. */
export const linkDialSchema = z.strictObject({
  dir: z.literal('dial'),
  kind: z.literal('link'),
  from: bootSchema,
  to: bootSchema,
  challenge: challengeSchema,
  reply: challengeSchema,
  domain: text,
  id: printable,
  /** Fencing number of the claim that the half was presented for. */
  fence: z.int().min(0),
  /** How long the half had waited when the ticket was made. */
  waitedMs: z.number().min(0),
  /** Absent where it was sent over the channel, for its length. */
  admission: admissionSchema.optional(),
});

export type LinkDial = z.infer<typeof linkDialSchema>;

export const linkAnswerSchema = z.strictObject({
  dir: z.literal('answer'),
  kind: z.literal('link'),
  from: bootSchema,
  to: bootSchema,
  challenge: challengeSchema,
});

/** Request on the channel by which an admission that is too long for a URL comes before its link. */
export const depositMethod = 'link-admission';
export const depositSchema = z.strictObject({ challenge: challengeSchema, admission: admissionSchema });

/** Sign of life on a channel, either way. */
export const beatText = '{"beat":true}';

export const requestSchema = z.object({
  id: z.int().min(1),
  method: z.string().min(1).max(64),
  body: z.unknown().optional(),
});

export const answerSchema = z.union([
  z.object({ id: z.int().min(1), ok: z.literal(true), body: z.unknown().optional() }),
  z.object({ id: z.int().min(1), ok: z.literal(false), error: z.string().max(1000) }),
]);
