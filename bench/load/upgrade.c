#define _GNU_SOURCE
#include "upgrade.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { ANSWER_BYTES = 4096, REQUEST_BYTES = 8192, HOSTS_PER_NET = 250 };

// A fixed key has a fixed answer (the example of RFC 6455, 1.3), so no hash is needed to check it.
static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==", accept_value[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

struct upgrade {
  bool secured;    // the TLS handshake is done, or there is none
  int unconnected;  // what connecting failed with, if it did at once
  size_t length, sent, got;
  char answer[ANSWER_BYTES + 1];
  char request[];
};

char upgrade_failure[256];
static struct sockaddr_in relay;
static uint32_t sources, begun;
static int device_port;  // 0: the same for both sides

void prepare_upgrades(int port, int source_count) {
  relay = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  relay.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  sources = (uint32_t)source_count;
}

bool use_device_port(const char *text) {
  device_port = atoi(text);
  return device_port > 0 && device_port <= 65535;
}

static _Noreturn void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

/** Writes the request for `path` with the pair filled in; returns its length, REQUEST_BYTES or more where it has no room. */
static size_t write_request(char *out, int port, const char *path, uint64_t pair) {
  size_t length = (size_t)snprintf(out, REQUEST_BYTES, "GET ");
  while (*path != 0 && length < REQUEST_BYTES) {
    size_t literal = strcspn(path, "{");
    if (literal == 0 && strncmp(path, "{pair}", 6) == 0) {
      length += (size_t)snprintf(out + length, REQUEST_BYTES - length, "%llu", (unsigned long long)pair);
      path += 6;
      continue;
    }
    if (literal == 0) literal = 1;
    length += (size_t)snprintf(out + length, REQUEST_BYTES - length, "%.*s", (int)literal, path);
    path += literal;
  }
  if (length >= REQUEST_BYTES) return length;
  return length + (size_t)snprintf(out + length, REQUEST_BYTES - length,
                                   " HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                   "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                                   port, key);
}

void half_begin(struct half *half, const char *path, uint64_t pair) {
  static char request[REQUEST_BYTES];
  struct sockaddr_in to = relay;
  if (device_port != 0 && !half->user) to.sin_port = htons((uint16_t)device_port);
  size_t length = write_request(request, ntohs(to.sin_port), path, pair);
  if (length >= REQUEST_BYTES) errno = E2BIG, die("path");
  struct upgrade *upgrade = malloc(sizeof *upgrade + length);
  if (upgrade == NULL) die("upgrade");
  upgrade->secured = !tls_in_use();
  upgrade->length = length;
  upgrade->sent = upgrade->got = 0;
  memcpy(upgrade->request, request, length);
  half->upgrade = upgrade;
  if (half->frames == NULL) half->frames = usual_frames;

  half->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (half->fd < 0) die("socket");
  setsockopt(half->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  if (sources > 1) {
    // The port is chosen when connecting, so that one may serve connections from several addresses.
    uint32_t source = begun++ % sources;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f010001u + (source / HOSTS_PER_NET << 8) + source % HOSTS_PER_NET);
    if (setsockopt(half->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int)) != 0 ||
        bind(half->fd, (struct sockaddr *)&from, sizeof from) != 0) die("bind to a loopback address");
  }
  int connected = connect(half->fd, (struct sockaddr *)&to, sizeof to);
  upgrade->unconnected = connected == 0 || errno == EINPROGRESS ? 0 : errno;
  if (upgrade->unconnected == EADDRNOTAVAIL || upgrade->unconnected == EADDRINUSE) die("connect: no free port");
  if (tls_in_use()) half->tls = tls_open(half->fd);
}

static void forget(struct half *half) {
  free(half->upgrade);
  half->upgrade = NULL;
}

static enum upgrade_state fail(struct half *half, enum upgrade_state state, const char *why) {
  const char *path = half->upgrade->request + 4;
  size_t shown = strcspn(path, "? ");
  snprintf(upgrade_failure, sizeof upgrade_failure, "upgrade of %.*s failed: %s", (int)(shown < 80 ? shown : 80), path, why);
  forget(half);
  return state;
}

/** What a socket's error means; waiting is none. */
static enum upgrade_state broken(struct half *half) {
  if (errno == EAGAIN || errno == EINTR || errno == ENOTCONN) return UPGRADE_GOES_ON;
  bool never = errno == ECONNREFUSED || errno == ETIMEDOUT;
  return fail(half, never ? UPGRADE_REFUSED : errno == EPROTO ? UPGRADE_PROTOCOL : UPGRADE_CLOSED,
              errno == EPROTO ? "TLS was not agreed upon" : strerror(errno));
}

/** The whole head of the answer is there: `end` is where its empty line begins. */
static enum upgrade_state read_answer(struct half *half, char *end) {
  struct upgrade *upgrade = half->upgrade;
  char *answer = upgrade->answer;
  if (strncmp(answer, "HTTP/1.1 101", 12) != 0) {
    char line[100];
    snprintf(line, sizeof line, "%.*s", (int)strcspn(answer, "\r\n"), answer);
    return fail(half, UPGRADE_REFUSED, line);
  }
  *end = 0;
  if (strstr(answer, accept_value) == NULL) return fail(half, UPGRADE_PROTOCOL, "wrong Sec-WebSocket-Accept");
  char *rest = end + 4;
  (void)half_receive(half, (uint8_t *)rest, upgrade->got - (size_t)(rest - answer));
  forget(half);
  return UPGRADE_DONE;
}

enum upgrade_state half_upgrade(struct half *half) {
  struct upgrade *upgrade = half->upgrade;
  if (upgrade->unconnected != 0) {
    errno = upgrade->unconnected;
    return broken(half);
  }
  if (!upgrade->secured) {
    int done = tls_handshake(half->tls);
    if (done < 0) return broken(half);
    if (done == 0) return UPGRADE_GOES_ON;
    upgrade->secured = true;
  }
  while (upgrade->sent < upgrade->length) {
    ssize_t sent = transport_send(half->fd, half->tls, upgrade->request + upgrade->sent, upgrade->length - upgrade->sent);
    if (sent < 0) return broken(half);
    upgrade->sent += (size_t)sent;
  }
  if (transport_flush(half->tls) < 0) return broken(half);
  for (;;) {
    size_t room = ANSWER_BYTES - upgrade->got;
    if (room == 0) return fail(half, UPGRADE_PROTOCOL, "the answer is too long");
    ssize_t got = transport_recv(half->fd, half->tls, upgrade->answer + upgrade->got, room);
    if (got < 0) return broken(half);
    if (got == 0) return fail(half, UPGRADE_CLOSED, "connection closed");
    upgrade->got += (size_t)got;
    upgrade->answer[upgrade->got] = 0;
    char *end = strstr(upgrade->answer, "\r\n\r\n");
    if (end != NULL) return read_answer(half, end);
  }
}
