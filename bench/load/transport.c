#include "transport.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <string.h>

// A record holds at most RECORD_BYTES; reading several at once spares system calls, and the room is given back when empty.
enum { RECORD_BYTES = 16384, READ_AHEAD_BYTES = 64 * 1024 };

struct tls {
  SSL *ssl;
  // A record that is encrypted cannot be taken back, and OpenSSL wants its text again when the socket has room: kept
  // here, so that the caller may send something else next, as it may on a socket.
  uint8_t *taken;
  size_t taken_length;
};

static SSL_CTX *context;

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "load: TLS: %s: %s\n", what, ERR_reason_error_string(ERR_peek_error()));
  exit(1);
}

/** Loopback, and a certificate made for the run. Without this OpenSSL would build a chain, and only then not mind. */
static int trust(X509_STORE_CTX *chain, void *unused) {
  (void)chain, (void)unused;
  return 1;
}

void use_tls(void) {
  if (context != NULL) return;
  context = SSL_CTX_new(TLS_client_method());
  if (context == NULL) fail("no context");
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_cert_verify_callback(context, trust, NULL);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD_BYTES);
  // The order in which browsers offer them.
  if (SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1) {
    fail("no cipher suites");
  }
  signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
}

bool tls_in_use(void) { return context != NULL; }

struct tls *tls_open(int fd) {
  struct tls *tls = calloc(1, sizeof *tls);
  if (tls == NULL || (tls->ssl = SSL_new(context)) == NULL || SSL_set_fd(tls->ssl, fd) != 1) fail("no connection");
  SSL_set_connect_state(tls->ssl);
  return tls;
}

/** What an OpenSSL call that did not succeed means: 0 end of stream, -1 with errno, EAGAIN where it waits. */
static int outcome(struct tls *tls, int result) {
  int broken = errno, error = SSL_get_error(tls->ssl, result);
  if (error == SSL_ERROR_ZERO_RETURN) return 0;
  bool waiting = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
  errno = waiting ? EAGAIN : error == SSL_ERROR_SYSCALL && broken != 0 ? broken : EPROTO;
  ERR_clear_error();
  return -1;
}

int tls_handshake(struct tls *tls) {
  int result = SSL_do_handshake(tls->ssl);
  if (result == 1) return 1;
  if (outcome(tls, result) == 0) errno = ECONNRESET;
  return errno == EAGAIN ? 0 : -1;
}

int tls_flush(struct tls *tls) {
  if (tls->taken == NULL) return 1;
  int result = SSL_write(tls->ssl, tls->taken, (int)tls->taken_length);
  if (result <= 0) return outcome(tls, result) < 0 && errno == EAGAIN ? 0 : -1;
  free(tls->taken);
  tls->taken = NULL;
  return 1;
}

ssize_t tls_send(struct tls *tls, const void *data, size_t length) {
  int flushed = tls_flush(tls);
  if (flushed < 0) return -1;
  size_t sent = 0;
  while (flushed == 1 && sent < length) {
    size_t rest = length - sent, record = rest < RECORD_BYTES ? rest : RECORD_BYTES;
    int result = SSL_write(tls->ssl, (const uint8_t *)data + sent, (int)record);
    if (result > 0) {
      sent += (size_t)result;
      continue;
    }
    if (outcome(tls, result) == 0) errno = EPIPE;
    if (errno != EAGAIN) return -1;
    tls->taken = malloc(record);
    if (tls->taken == NULL) fail("no memory");
    memcpy(tls->taken, (const uint8_t *)data + sent, record);
    tls->taken_length = record;
    return (ssize_t)(sent + record);
  }
  if (sent == 0) errno = EAGAIN;
  return sent == 0 ? -1 : (ssize_t)sent;
}

ssize_t tls_recv(struct tls *tls, void *room, size_t length) {
  size_t got = 0;
  do {
    int result = SSL_read(tls->ssl, (uint8_t *)room + got, (int)(length - got));
    if (result <= 0 && got == 0) return outcome(tls, result);
    if (result <= 0) {  // told again at the next call, if it is more than waiting
      (void)outcome(tls, result);
      break;
    }
    got += (size_t)result;
  } while (got < length && SSL_has_pending(tls->ssl));
  return (ssize_t)got;
}

void tls_close(struct tls *tls) {
  if (tls == NULL) return;
  if (SSL_is_init_finished(tls->ssl) && tls->taken == NULL) SSL_shutdown(tls->ssl);
  ERR_clear_error();
  free(tls->taken);
  SSL_free(tls->ssl);
  free(tls);
}

#else

void use_tls(void) {
  fputs("load: --tls: this program was built without OpenSSL\n", stderr);
  exit(2);
}

bool tls_in_use(void) { return false; }

// No connection is ever opened, so that none of these is called.
struct tls *tls_open(int fd) { (void)fd, abort(); }
int tls_handshake(struct tls *tls) { (void)tls, abort(); }
int tls_flush(struct tls *tls) { (void)tls, abort(); }
ssize_t tls_send(struct tls *tls, const void *data, size_t length) { (void)tls, (void)data, (void)length, abort(); }
ssize_t tls_recv(struct tls *tls, void *room, size_t length) { (void)tls, (void)room, (void)length, abort(); }
void tls_close(struct tls *tls) { (void)tls; }
#endif
