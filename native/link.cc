// Links: a half of another server, as a socket between the two servers. The server that has the half (the carrier) is
// the link's WebSocket client and passes on what comes; the other one treats it as a half of its own. How a half ended
// on one server is told to the other by the code with which the link is closed.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "half.h"

namespace couplet {

namespace {

// A descriptor of our own for a connected socket; -1 where it is none.
int ownDescriptor(int fd) {
  sockaddr_storage address;
  socklen_t length = sizeof address;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return -1;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return -1;
  const int flags = fcntl(own, F_GETFL);
  if (flags < 0 || fcntl(own, F_SETFL, flags | O_NONBLOCK) != 0) {
    close(own);
    return -1;
  }
  const int on = 1;
  setsockopt(own, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return own;
}

// Codes that may stand in a close frame.
bool isSendable(uint16_t code) {
  return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
         (code >= 3000 && code <= 4999);
}

}  // namespace

uint32_t adoptLink(int fd, std::string_view head) {
  static ContextHooks* hooks = nullptr;
  if (hooks == nullptr) hooks = makeContext(socketHandlers(false));
  if (hooks == nullptr) return 0;
  const int own = ownDescriptor(fd);
  if (own < 0) return 0;
  us_socket_t* socket = us.adoptAccepted(0, hooks->context, own, 0, nullptr, 0);
  if (socket == nullptr) {
    close(own);
    return 0;
  }
  Half& half = takeSocket(socket, hooks);
  half.link = half.client = true;
  if (!head.empty()) keepRead(half, head);
  return half.id;
}

Goodbye goodbyeOf(const Half& half, uint16_t code, std::string_view reason) {
  Goodbye goodbye;
  if (!half.link || code == 0 || code == 1000) {
    goodbye.by = half.side();
    // What the far server says to the half that this one carries is not this one's to word.
    if (half.client && code == 1000) goodbye.reason = reason;
    return goodbye;
  }
  goodbye.code = isSendable(code) ? code : 4502;
  goodbye.reason = reason;
  goodbye.keepTail = false;
  switch (code) {
    case 1001:
      goodbye.outcome = Outcome::shutdown;
      goodbye.keepTail = true;
      break;
    case 1009:
      goodbye.outcome = Outcome::limit;
      goodbye.error = HalfError::tooBig;
      break;
    case 4401: goodbye.outcome = Outcome::expired; break;
    case 4403: goodbye.outcome = Outcome::denied; break;
    case 4404:
    case 4408: goodbye.outcome = Outcome::noPeer; break;
    case 4409: goodbye.outcome = Outcome::duplicate; break;
    case 4410: goodbye.outcome = Outcome::revoked; break;
    case 4429: goodbye.outcome = Outcome::limit; break;
    case 4500: goodbye.outcome = Outcome::recordingFailed; break;
    case 4502:
      goodbye.outcome = Outcome::peerError;
      goodbye.by = half.side();
      goodbye.error = HalfError::broken;
      goodbye.keepTail = true;
      break;
    case 4503:
      goodbye.outcome = Outcome::slow;
      goodbye.error = HalfError::stalled;
      break;
    case 4504: goodbye.outcome = Outcome::idle; break;
    default:
      goodbye.outcome = Outcome::peerError;
      if (code == 1002) goodbye.by = half.side();
  }
  return goodbye;
}

}  // namespace couplet
