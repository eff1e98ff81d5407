// What carries a half's bytes: its socket, or TLS over it. Built without WITH_TLS only the former.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/** One TLS connection; NULL where the socket speaks for itself. */
struct tls;

/** From here on all halves speak TLS 1.3. Ends the program with a line on stderr where it was built without. */
void use_tls(void);
bool tls_in_use(void);

/** A TLS connection over a socket that does not block. */
struct tls *tls_open(int fd);

/** Goes on with the handshake: 1 done, 0 waiting for the socket, -1 broken (errno; EPROTO where TLS itself failed). */
int tls_handshake(struct tls *tls);

/**
 * As send() and recv() on a socket that does not block. What send has taken may still be on its way to the socket: see
 * tls_flush. recv takes all that has been decrypted, unless the room is full: then it is to be called again.
 */
ssize_t tls_send(struct tls *tls, const void *data, size_t length);
ssize_t tls_recv(struct tls *tls, void *room, size_t length);

/** Hands the socket what send has taken: 1 nothing is left, 0 waiting for the socket, -1 broken. */
int tls_flush(struct tls *tls);

/** Says goodbye if the socket takes it, and frees the connection; the socket stays. */
void tls_close(struct tls *tls);

static inline ssize_t transport_send(int fd, struct tls *tls, const void *data, size_t length) {
  return __builtin_expect(tls == NULL, 1) ? send(fd, data, length, MSG_NOSIGNAL) : tls_send(tls, data, length);
}

static inline ssize_t transport_recv(int fd, struct tls *tls, void *room, size_t length) {
  return __builtin_expect(tls == NULL, 1) ? recv(fd, room, length, 0) : tls_recv(tls, room, length);
}

/** 1 nothing is left to be handed over, 0 waiting for the socket, -1 broken. */
static inline int transport_flush(struct tls *tls) { return __builtin_expect(tls == NULL, 1) ? 1 : tls_flush(tls); }
