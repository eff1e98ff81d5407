// One WebSocket half of the load generator: upgrade, prepared frames out, streaming frame parser in.
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MIN_PAYLOAD = 16, CONTROL_ROOM = 6 + 125 };

/** What can be wrong with what a relay delivers, counted over all halves. */
struct faults {
  uint64_t order;     // a sequence number other than the next one: lost, repeated or reordered
  uint64_t content;   // wrong length, or a tail that does not belong to the sequence number
  uint64_t protocol;  // not a server frame
  uint64_t closed;    // close frame, end of stream or socket error before the end
};

struct half {
  int fd;  // -1 once closed
  struct half *mate;
  bool user;
  bool greeted;  // `c` or `cr` has arrived

  // Sending. What a frame holds follows from its sequence number, so a half-sent one needs no copy.
  uint64_t allowed;       // sequence numbers below this one may be sent
  uint64_t sent;          // whole frames sent; the sequence number of the next
  size_t frame_offset;    // bytes of frame `sent` that have left already
  bool blocked;           // the socket took no more: waiting for EPOLLOUT
  uint8_t control[CONTROL_ROOM];  // a pong that leaves at the next frame boundary
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
  uint8_t ping[125];
};

/** Builds the frames all halves send: `batch` of them in a row, masked, `payload_bytes` long (at least MIN_PAYLOAD). */
void prepare_frames(size_t payload_bytes, size_t batch);

/**
 * Connects, upgrades with `path` (request target) and leaves the socket non-blocking. Exits with a line on stderr
 * where the relay refuses. What comes behind the relay's answer goes through `half_receive`.
 */
void half_connect(struct half *half, const struct sockaddr_in *address, const char *path);

/** Sends what is allowed until the socket is full; false where the socket broke. */
bool half_send(struct half *half);

/**
 * Sends one frame at once, whatever is allowed. The wall clock, read last before the system call, stands in the
 * payload's second eight bytes (nanoseconds, in the machine's byte order), so prepare_frames() is to be told at least
 * 24 bytes. Returns that time, or 0 where the socket did not take the whole frame: the half is of no use then.
 */
uint64_t half_send_stamped(struct half *half);

/** Called for every whole binary message; the program's main file defines it. */
void message_arrived(struct half *half, uint64_t sequence);

/** Takes bytes apart into frames and messages; false where the half has closed or broken the protocol. */
bool half_receive(struct half *half, const uint8_t *data, size_t length);

/** Says goodbye with a close frame and closes the socket. */
void half_close(struct half *half);

extern struct faults faults;
