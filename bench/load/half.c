#define _GNU_SOURCE
#include "half.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct faults faults;
struct notices notices;

static const uint8_t mask[4] = {0x5a, 0xc3, 0x17, 0x8e};
struct frames {
  uint8_t *bytes;
  size_t frame_bytes, header_bytes, payload_bytes, count;
  uint8_t tail_mask[8];
  uint8_t server_header[10];  // of the same frame as the relay sends it: without the mask
};
struct frames *usual_frames;

struct frames *prepare_frames(size_t payload_bytes, size_t batch) {
  uint8_t header[14] = {0x82};
  size_t length = 2;
  if (payload_bytes < 126) {
    header[1] = (uint8_t)(128 | payload_bytes);
  } else if (payload_bytes < 65536) {
    header[1] = 128 | 126;
    for (int shift = 8; shift >= 0; shift -= 8) header[length++] = (uint8_t)(payload_bytes >> shift);
  } else {
    header[1] = 128 | 127;
    for (int shift = 56; shift >= 0; shift -= 8) header[length++] = (uint8_t)((uint64_t)payload_bytes >> shift);
  }
  struct frames *frames = calloc(1, sizeof *frames);
  uint8_t *bytes = malloc(batch * (length + 4 + payload_bytes));
  if (frames == NULL || bytes == NULL) {
    fprintf(stderr, "load: no memory for %zu frames of %zu bytes\n", batch, payload_bytes);
    exit(1);
  }
  memcpy(frames->server_header, header, length);
  frames->server_header[1] &= 127;
  memcpy(header + length, mask, 4);
  length += 4;
  frames->bytes = bytes;
  frames->header_bytes = length;
  frames->payload_bytes = payload_bytes;
  frames->frame_bytes = length + payload_bytes;
  frames->count = batch;
  for (size_t i = 0; i < batch; i++) {
    uint8_t *frame = bytes + i * frames->frame_bytes;
    memcpy(frame, header, length);
    for (size_t j = 0; j < payload_bytes; j++) frame[length + j] = (uint8_t)(j * 31 + 7) ^ mask[j & 3];
  }
  for (size_t i = 0; i < 8; i++) frames->tail_mask[i] = mask[(payload_bytes - 8 + i) & 3];
  if (usual_frames == NULL) usual_frames = frames;
  return frames;
}

uint64_t half_sent_bytes(const struct half *half) {
  return half->sent * half->frames->frame_bytes + half->frame_offset;
}

/** Writes sequence numbers into the first `count` prepared frames: at the payload's start, inverted at its end. */
static void number_frames(struct frames *frames, uint64_t sequence, size_t count) {
  uint64_t head_key, tail_key;
  memcpy(&head_key, mask, 4);
  memcpy((uint8_t *)&head_key + 4, mask, 4);
  memcpy(&tail_key, frames->tail_mask, 8);
  uint8_t *payload = frames->bytes + frames->header_bytes;
  for (size_t i = 0; i < count; i++, sequence++, payload += frames->frame_bytes) {
    uint64_t head = sequence ^ head_key, tail = ~sequence ^ tail_key;
    memcpy(payload, &head, 8);
    memcpy(payload + frames->payload_bytes - 8, &tail, 8);
  }
}

/** One send: -1 broken, otherwise what the socket took. Sets `blocked` when that is not everything. */
static ssize_t send_some(struct half *half, const uint8_t *data, size_t length) {
  ssize_t sent = transport_send(half->fd, half->tls, data, length);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) return -1;
    sent = 0;
  }
  half->blocked = (size_t)sent < length;
  return sent;
}

bool half_send(struct half *half) {
  struct frames *frames = half->frames;
  size_t left = half->turn_bytes == 0 ? SIZE_MAX : half->turn_bytes;
  half->blocked = false;
  while (!half->blocked) {
    bool control = half->control_length > 0;
    if (control && half->frame_offset == 0) {
      ssize_t sent = send_some(half, half->control + half->control_sent, half->control_length - half->control_sent);
      if (sent < 0) return false;
      half->control_sent += (size_t)sent;
      if (half->control_sent == half->control_length) half->control_length = half->control_sent = 0;
      continue;
    }
    // With an answer waiting only the frame already begun is finished first.
    uint64_t open = control ? 1 : half->allowed - half->sent;
    if (open == 0) break;
    if (left == 0) {
      half->blocked = true;
      break;
    }
    size_t count = open < frames->count ? (size_t)open : frames->count, within = left / frames->frame_bytes + 1;
    if (count > within) count = within;
    number_frames(frames, half->sent, count);
    size_t length = count * frames->frame_bytes - half->frame_offset;
    if (length > left) length = left;
    ssize_t sent = send_some(half, frames->bytes + half->frame_offset, length);
    if (sent < 0) return false;
    left -= (size_t)sent;
    size_t at = half->frame_offset + (size_t)sent;
    half->sent += at / frames->frame_bytes;
    half->frame_offset = at % frames->frame_bytes;
  }
  if (half->blocked) return true;
  int flushed = transport_flush(half->tls);
  half->blocked = flushed == 0;
  return flushed >= 0;
}

uint64_t half_send_stamped(struct half *half) {
  struct frames *frames = half->frames;
  number_frames(frames, half->sent, 1);
  uint64_t key;
  memcpy(&key, mask, 4);
  memcpy((uint8_t *)&key + 4, mask, 4);
  struct timespec time;
  if (clock_gettime(CLOCK_REALTIME, &time) != 0) return 0;
  uint64_t now = (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec, stamp = now ^ key;
  memcpy(frames->bytes + frames->header_bytes + 8, &stamp, 8);
  ssize_t sent = transport_send(half->fd, half->tls, frames->bytes, frames->frame_bytes);
  if (sent != (ssize_t)frames->frame_bytes || transport_flush(half->tls) != 1) return 0;
  half->allowed = ++half->sent;
  return now;
}

static bool violate(struct half *half) {
  faults.protocol++;
  half->violated = true;
  return false;
}

/** A whole message: checks it and hands it on. `head`, `tail`: its first and last eight bytes. */
static inline void end_message(struct half *half, uint64_t length, const uint8_t *head, const uint8_t *tail) {
  uint64_t sequence, inverted;
  memcpy(&sequence, head, 8);
  memcpy(&inverted, tail, 8);
  if (length != half->frames->payload_bytes || inverted != ~sequence) faults.content++;
  else if (sequence != half->received || !half->greeted) faults.order++;
  half->received = sequence + 1;
  message_arrived(half, sequence);
}

/** Queues the answer to a ping, where there is room: of several only the last must be answered. */
static void answer(struct half *half, uint8_t opcode, const uint8_t *payload, size_t length) {
  if (half->control_length + 6 + length > CONTROL_ROOM || half->close_sent) return;
  uint8_t *frame = half->control + half->control_length;
  frame[0] = 0x80 | opcode;
  frame[1] = (uint8_t)(128 | length);
  memcpy(frame + 2, mask, 4);
  for (size_t i = 0; i < length; i++) frame[6 + i] = payload[i] ^ mask[i & 3];
  half->control_length += 6 + length;
  notices.pings_answered++;
}

/** Texts are the relay's own, or a mate's answer to one of them: the greeting, keepalive. */
static void end_text(struct half *half) {
  static const char pong[] = "{\"ctrlChannel\":\"102938\",\"type\":\"pong\"}";
  if (half->message_bytes >= 1 && half->message_bytes <= 2 && half->first[0] == 'c') {
    half->greeted = true;
    return;
  }
  notices.texts++;
  size_t length = half->message_bytes < TEXT_ROOM ? (size_t)half->message_bytes : TEXT_ROOM;
  bool control = memmem(half->text, length, "102938", 6) != NULL;
  if (control && memmem(half->text, length, "\"ping\"", 6) != NULL) answer(half, 1, (const uint8_t *)pong, sizeof pong - 1);
}

static bool end_frame(struct half *half) {
  half->in_payload = false;
  half->header_length = 0;
  if (half->opcode == 8) {
    half->close_received = true;
    return false;
  }
  if (half->opcode == 9) answer(half, 10, half->ping, (size_t)half->frame_bytes);
  if (half->opcode >= 8 || !half->final) return true;
  half->in_message = false;
  if (half->message_opcode == 1) end_text(half);
  else end_message(half, half->message_bytes, half->first, half->last);
  return true;
}

static bool begin_frame(struct half *half) {
  const uint8_t *header = half->header;
  uint8_t opcode = header[0] & 15;
  bool data = opcode < 8;
  if ((header[0] & 0x70) != 0 || (header[1] & 128) != 0) return violate(half);
  if (data ? opcode > 2 || (opcode == 0) != half->in_message : header[1] > 125) return violate(half);
  uint64_t length = header[1];
  if (length >= 126) {
    length = 0;
    for (size_t i = 2; i < half->header_length; i++) length = length << 8 | header[i];
  }
  half->opcode = opcode;
  half->final = (header[0] & 128) != 0;
  if (data && opcode != 0) {
    half->message_opcode = opcode;
    half->message_bytes = 0;
  }
  if (data) half->in_message = true;
  half->in_payload = true;
  half->payload_left = half->frame_bytes = length;
  return true;
}

/** Keeps a data message's first and last eight bytes, and a control frame whole. */
static void keep_payload(struct half *half, const uint8_t *data, size_t length) {
  if (half->opcode >= 8) {
    memcpy(half->ping + half->frame_bytes - half->payload_left, data, length);
    return;
  }
  if (half->message_opcode == 1 && half->message_bytes < TEXT_ROOM) {
    size_t room = TEXT_ROOM - (size_t)half->message_bytes;
    memcpy(half->text + half->message_bytes, data, length < room ? length : room);
  }
  for (size_t i = 0; i < length && half->message_bytes + i < 8; i++) half->first[half->message_bytes + i] = data[i];
  if (length >= 8) {
    memcpy(half->last, data + length - 8, 8);
  } else {
    memmove(half->last, half->last + length, 8 - length);
    memcpy(half->last + 8 - length, data, length);
  }
  half->message_bytes += length;
}

bool half_receive(struct half *half, const uint8_t *data, size_t length) {
  const uint8_t *end = data + length;
  const struct frames *frames = half->frames;
  const size_t header = frames->header_bytes - 4, payload = frames->payload_bytes, whole = header + payload;
  while (data < end) {
    // The common case in one step, so that the generator is not the limit: the very frame that was sent, all there.
    if (half->header_length == 0 && !half->in_message && (size_t)(end - data) >= whole &&
        memcmp(data, frames->server_header, header) == 0) {
      end_message(half, payload, data + header, data + whole - 8);
      data += whole;
      continue;
    }
    if (!half->in_payload) {
      half->header[half->header_length++] = *data++;
      if (half->header_length < 2) continue;
      uint8_t code = half->header[1] & 127;
      if (half->header_length < (code == 127 ? 10u : code == 126 ? 4u : 2u)) continue;
      if (!begin_frame(half)) return false;
    } else {
      size_t chunk = half->payload_left < (uint64_t)(end - data) ? (size_t)half->payload_left : (size_t)(end - data);
      keep_payload(half, data, chunk);
      half->payload_left -= chunk;
      data += chunk;
    }
    if (half->in_payload && half->payload_left == 0 && !end_frame(half)) return false;
  }
  return true;
}

bool half_goodbye(struct half *half) {
  uint8_t goodbye[8] = {0x88, 128 | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
  half->close_sent = true;
  return transport_send(half->fd, half->tls, goodbye, sizeof goodbye) == (ssize_t)sizeof goodbye;
}

void half_close(struct half *half) {
  if (half->fd < 0) return;
  // Best effort: in the middle of a frame, or with a full socket, the connection just ends.
  if (half->frame_offset == 0 && half->control_sent == 0) half_goodbye(half);
  half_drop(half);
}

void half_drop(struct half *half) {
  if (half->fd < 0) return;
  tls_close(half->tls);
  close(half->fd);
  free(half->upgrade);
  half->fd = -1;
  half->tls = NULL;
  half->upgrade = NULL;
}
