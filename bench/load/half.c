#define _GNU_SOURCE
#include "half.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults faults;

static const uint8_t mask[4] = {0x5a, 0xc3, 0x17, 0x8e};
static struct {
  uint8_t *bytes;
  size_t frame_bytes, header_bytes, payload_bytes, count;
  uint8_t tail_mask[8];
  uint8_t server_header[10];  // of the same frame as the relay sends it: without the mask
} prepared;

void prepare_frames(size_t payload_bytes, size_t batch) {
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
  memcpy(prepared.server_header, header, length);
  prepared.server_header[1] &= 127;
  memcpy(header + length, mask, 4);
  length += 4;
  prepared.header_bytes = length;
  prepared.payload_bytes = payload_bytes;
  prepared.frame_bytes = length + payload_bytes;
  prepared.count = batch;
  prepared.bytes = malloc(batch * prepared.frame_bytes);
  if (prepared.bytes == NULL) {
    fprintf(stderr, "load: no memory for %zu frames of %zu bytes\n", batch, prepared.frame_bytes);
    exit(1);
  }
  for (size_t i = 0; i < batch; i++) {
    uint8_t *frame = prepared.bytes + i * prepared.frame_bytes;
    memcpy(frame, header, length);
    for (size_t j = 0; j < payload_bytes; j++) frame[length + j] = (uint8_t)(j * 31 + 7) ^ mask[j & 3];
  }
  for (size_t i = 0; i < 8; i++) prepared.tail_mask[i] = mask[(payload_bytes - 8 + i) & 3];
}

/** Writes sequence numbers into the first `count` prepared frames: at the payload's start, inverted at its end. */
static void number_frames(uint64_t sequence, size_t count) {
  uint64_t head_key, tail_key;
  memcpy(&head_key, mask, 4);
  memcpy((uint8_t *)&head_key + 4, mask, 4);
  memcpy(&tail_key, prepared.tail_mask, 8);
  uint8_t *payload = prepared.bytes + prepared.header_bytes;
  for (size_t i = 0; i < count; i++, sequence++, payload += prepared.frame_bytes) {
    uint64_t head = sequence ^ head_key, tail = ~sequence ^ tail_key;
    memcpy(payload, &head, 8);
    memcpy(payload + prepared.payload_bytes - 8, &tail, 8);
  }
}

/** One send: -1 broken, otherwise what the socket took. Sets `blocked` when that is not everything. */
static ssize_t send_some(struct half *half, const uint8_t *data, size_t length) {
  ssize_t sent = send(half->fd, data, length, MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EINTR) return -1;
    sent = 0;
  }
  half->blocked = (size_t)sent < length;
  return sent;
}

bool half_send(struct half *half) {
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
    // With a pong waiting only the frame already begun is finished first.
    uint64_t open = control ? 1 : half->allowed - half->sent;
    if (open == 0) break;
    size_t count = open < prepared.count ? (size_t)open : prepared.count;
    number_frames(half->sent, count);
    ssize_t sent = send_some(half, prepared.bytes + half->frame_offset, count * prepared.frame_bytes - half->frame_offset);
    if (sent < 0) return false;
    size_t at = half->frame_offset + (size_t)sent;
    half->sent += at / prepared.frame_bytes;
    half->frame_offset = at % prepared.frame_bytes;
  }
  return true;
}

uint64_t half_send_stamped(struct half *half) {
  number_frames(half->sent, 1);
  uint64_t key;
  memcpy(&key, mask, 4);
  memcpy((uint8_t *)&key + 4, mask, 4);
  struct timespec time;
  if (clock_gettime(CLOCK_REALTIME, &time) != 0) return 0;
  uint64_t now = (uint64_t)time.tv_sec * 1000000000ULL + (uint64_t)time.tv_nsec, stamp = now ^ key;
  memcpy(prepared.bytes + prepared.header_bytes + 8, &stamp, 8);
  if (send(half->fd, prepared.bytes, prepared.frame_bytes, MSG_NOSIGNAL) != (ssize_t)prepared.frame_bytes) return 0;
  half->allowed = ++half->sent;
  return now;
}

static bool violated(uint64_t *counter) {
  ++*counter;
  return false;
}

/** A whole message: checks it and hands it on. `head`, `tail`: its first and last eight bytes. */
static inline void end_message(struct half *half, uint64_t length, const uint8_t *head, const uint8_t *tail) {
  uint64_t sequence, inverted;
  memcpy(&sequence, head, 8);
  memcpy(&inverted, tail, 8);
  if (length != prepared.payload_bytes || inverted != ~sequence) faults.content++;
  else if (sequence != half->received || !half->greeted) faults.order++;
  half->received = sequence + 1;
  message_arrived(half, sequence);
}

static bool end_frame(struct half *half) {
  half->in_payload = false;
  half->header_length = 0;
  if (half->opcode == 8) return violated(&faults.closed);
  if (half->opcode == 9 && half->control_length == 0) {  // a second ping before the pong has left needs no pong of its own
    half->control[0] = 0x8a;
    half->control[1] = (uint8_t)(128 | half->frame_bytes);
    memcpy(half->control + 2, mask, 4);
    for (size_t i = 0; i < half->frame_bytes; i++) half->control[6 + i] = half->ping[i] ^ mask[i & 3];
    half->control_length = 6 + (size_t)half->frame_bytes;
  }
  if (half->opcode >= 8 || !half->final) return true;
  half->in_message = false;
  if (half->message_opcode == 1) {  // texts are the relay's own: the greeting, keepalive
    if (half->message_bytes >= 1 && half->message_bytes <= 2 && half->first[0] == 'c') half->greeted = true;
    return true;
  }
  end_message(half, half->message_bytes, half->first, half->last);
  return true;
}

static bool begin_frame(struct half *half) {
  const uint8_t *header = half->header;
  uint8_t opcode = header[0] & 15;
  bool data = opcode < 8;
  if ((header[0] & 0x70) != 0 || (header[1] & 128) != 0) return violated(&faults.protocol);
  if (data ? opcode > 2 || (opcode == 0) != half->in_message : header[1] > 125) return violated(&faults.protocol);
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
  size_t header = prepared.header_bytes - 4, whole = header + prepared.payload_bytes;
  while (data < end) {
    // The common case in one step, so that the generator is not the limit: the very frame that was sent, all there.
    if (half->header_length == 0 && !half->in_message && (size_t)(end - data) >= whole &&
        memcmp(data, prepared.server_header, header) == 0) {
      end_message(half, prepared.payload_bytes, data + header, data + whole - 8);
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

static void refuse(const char *path, const char *what) {
  size_t shown = strcspn(path, "?");  // the query holds a cookie
  fprintf(stderr, "load: upgrade of %.*s failed: %s\n", (int)shown, path, what);
  exit(1);
}

void half_connect(struct half *half, const struct sockaddr_in *address, const char *path) {
  // A fixed key has a fixed answer (the example of RFC 6455, 1.3), so no hash is needed to check it.
  static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==", accept_value[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
  char request[8192], answer[8193];
  half->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (half->fd < 0 || connect(half->fd, (const struct sockaddr *)address, sizeof *address) != 0) refuse(path, strerror(errno));
  setsockopt(half->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  setsockopt(half->fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 10}, sizeof(struct timeval));
  int length = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        path, ntohs(address->sin_port), key);
  if ((size_t)length >= sizeof request) refuse(path, "path is too long");
  if (send(half->fd, request, (size_t)length, MSG_NOSIGNAL) != length) refuse(path, strerror(errno));
  size_t got = 0;
  char *end = NULL;
  while (end == NULL) {
    ssize_t n = recv(half->fd, answer + got, sizeof answer - 1 - got, 0);
    if (n <= 0) refuse(path, n == 0 ? "connection closed" : strerror(errno));
    got += (size_t)n;
    answer[got] = 0;
    end = strstr(answer, "\r\n\r\n");
  }
  if (strncmp(answer, "HTTP/1.1 101", 12) != 0) {
    answer[strcspn(answer, "\r")] = 0;
    refuse(path, answer);
  }
  if (strstr(answer, accept_value) == NULL) refuse(path, "wrong Sec-WebSocket-Accept");
  if (fcntl(half->fd, F_SETFL, O_NONBLOCK) != 0) refuse(path, strerror(errno));
  size_t rest = got - (size_t)(end + 4 - answer);
  if (!half_receive(half, (uint8_t *)end + 4, rest)) refuse(path, "closed at once");
}

void half_close(struct half *half) {
  if (half->fd < 0) return;
  uint8_t goodbye[8] = {0x88, 128 | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
  // Best effort: in the middle of a frame, or with a full socket, the connection just ends.
  if (half->frame_offset == 0) send(half->fd, goodbye, sizeof goodbye, MSG_NOSIGNAL);
  close(half->fd);
  half->fd = -1;
}
