// One WebSocket half of the load generator, upgraded (upgrade.h): prepared frames out, streaming frame parser in.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport.h"

enum { MIN_PAYLOAD = 16, CONTROL_ROOM = 2 * (6 + 125), TEXT_ROOM = 64 };

/** What can be wrong with what a relay delivers, counted over all halves. */
struct faults {
  uint64_t order;     // a sequence number other than the next one: lost, repeated or reordered
  uint64_t content;   // wrong length, or a tail that does not belong to the sequence number
  uint64_t protocol;  // not a server frame
  uint64_t closed;    // close frame, end of stream or socket error before the end
};

/** What relays send of their own, counted over all halves. */
struct notices {
  uint64_t texts;           // beside the greetings
  uint64_t pings_answered;  // WebSocket pings, and texts that ask for one
};

/** The frames that halves send: many of one size in a row, masked. */
struct frames;

struct half {
  int fd;                   // -1 once closed
  struct tls *tls;          // NULL: plain
  struct upgrade *upgrade;  // NULL once it is done
  struct half *mate;
  struct frames *frames;  // what it sends and, as its mate sends the same, what it expects
  size_t turn_bytes;      // the most that one turn reads from it, and sends on it; 0: no such limit
  bool user;
  bool muted;    // not read by turn(), but by pull() alone
  bool greeted;  // `c` or `cr` has arrived
  bool close_sent, close_received;
  bool violated;  // the relay broke the protocol

  // Sending. What a frame holds follows from its sequence number, so a half-sent one needs no copy.
  uint64_t allowed;       // sequence numbers below this one may be sent
  uint64_t sent;          // whole frames sent; the sequence number of the next
  size_t frame_offset;    // bytes of frame `sent` that have left already
  bool blocked;           // the socket took no more, or its turn is over: waiting for EPOLLOUT
  uint8_t control[CONTROL_ROOM];  // answers to pings that leave at the next frame boundary
  size_t control_length, control_sent;

  // Receiving.
  uint64_t received;      // data messages, and the sequence number expected next
  uint8_t header[10];
  size_t header_length;
  bool in_payload, in_message;
  uint8_t opcode, message_opcode;
  bool final;
  uint64_t payload_left, frame_bytes, message_bytes;
  uint8_t first[8], last[8];  // a message's first and last eight bytes
  uint8_t ping[125];         // a control frame's payload
  char text[TEXT_ROOM];      // the beginning of a text
};

/**
 * Builds frames to be sent: `batch` of them in a row, masked, `payload_bytes` long (at least MIN_PAYLOAD). The first call's
 * are what all halves send unless they are given others (both halves of a pair the same, before anything is sent).
 */
struct frames *prepare_frames(size_t payload_bytes, size_t batch);

/** What halves send that were given no others: those of the first call. */
extern struct frames *usual_frames;

/** Bytes of frames that the socket has taken. */
uint64_t half_sent_bytes(const struct half *half);

/** Sends what is allowed until the socket is full or the turn's bytes are used up; false where the socket broke. */
bool half_send(struct half *half);

/**
 * Sends one frame at once, whatever is allowed. The wall clock, read last before the system call, stands in the
 * payload's second eight bytes (nanoseconds, in the machine's byte order), so prepare_frames() is to be told at least
 * 24 bytes. Returns that time, or 0 where the socket did not take the whole frame: the half is of no use then.
 */
uint64_t half_send_stamped(struct half *half);

/** Called for every whole binary message; the program's main file defines it. */
void message_arrived(struct half *half, uint64_t sequence);

/**
 * Takes bytes apart into frames and messages; false after a close frame (then `close_received` is set, and the bytes
 * behind it are ignored) and where the relay breaks the protocol (counted in `faults`).
 */
bool half_receive(struct half *half, const uint8_t *data, size_t length);

/** Sends a close frame with status 1000, the first or the answer; false where the socket did not take it. */
bool half_goodbye(struct half *half);

/** Says goodbye with a close frame, if a whole one can be sent, and closes the socket. */
void half_close(struct half *half);

/** Closes the socket. */
void half_drop(struct half *half);

extern struct faults faults;
extern struct notices notices;
