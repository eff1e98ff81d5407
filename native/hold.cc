// Halves and pairs come to be.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "half.h"

namespace couplet {

Relay relay;

namespace {

constexpr int kTcpKeepAliveSeconds = 240;  // R21

void setKeepAlive(int fd) {
  const int on = 1;
  const int idle = kTcpKeepAliveSeconds;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
}

// Looks at a waiting plain socket's unread bytes without taking them: its peer may have said goodbye, though its
// connection stands until that is answered.
bool closeFrameWaits(const Half& half) {
  static char bytes[kPeekBytes];
  const ssize_t length = recv(half.fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
  if (length <= 0) return false;
  return holdsCloseFrame(keptBytes(half).append(bytes, static_cast<size_t>(length)), half.client);
}

}  // namespace

bool holdsCloseFrame(std::string_view bytes, bool fromServer) {
  static std::string padded;
  padded.assign(kFeedHeadroom, 0);
  padded.append(bytes);
  struct {
    bool closed = false;
    void output(char*, size_t) {}
    void ping(const char*, size_t) {}
    void pong() {}
    void close(const char*, size_t) { closed = true; }
    void boundary(bool) {}
  } sink;
  FrameReader reader;
  reader.fromServer = fromServer;
  reader.feed(padded.data() + kFeedHeadroom, bytes.size(), sink);
  return sink.closed;
}

Half& takeSocket(us_socket_t* socket, ContextHooks* hooks) {
  auto half = std::make_unique<Half>();
  half->socket = socket;
  half->hooks = hooks;
  half->id = relay.nextId++;
  half->fd = us.pollFd(half->poll());
  half->lastReadTick = half->lastWriteTick = relay.tick;
  const size_t slot = static_cast<size_t>(half->fd);
  if (slot >= relay.byFd.size()) relay.byFd.resize(slot + 1024, nullptr);
  setKeepAlive(half->fd);
  relay.byFd[slot] = half.get();
  relay.halves.emplace(half->id, half.get());
  pauseReading(*half, kHeld);
  return *half.release();
}

uint32_t hold(us_socket_t* socket, bool ssl, std::string& error) {
  if (socket == nullptr || us.isClosed(ssl, socket)) return 0;
  ContextHooks* hooks = hookContext(socket, ssl, socketHandlers(ssl));
  if (hooks == nullptr) {
    error = "the handlers of uWebSockets.js could not be replaced";
    return 0;
  }
  return takeSocket(socket, hooks).id;
}

bool isGone(Half& half) {
  if (half.stage != Stage::open || half.closeNow) return true;
  pollfd entry = {half.fd, POLLIN | POLLRDHUP, 0};
  if (::poll(&entry, 1, 0) < 1) return false;
  if (entry.revents & (POLLRDHUP | POLLHUP | POLLERR)) {
    half.closeNow = true;
    markDirty(half);
    return true;
  }
  int unread = 0;
  if (half.ssl() || ioctl(half.fd, FIONREAD, &unread) != 0 || unread == half.peekedBytes) return false;
  half.peekedBytes = unread;
  if (!closeFrameWaits(half)) return false;
  answerGoodbye(half);
  return true;
}

void answerGoodbye(Half& half) { startClose(half, 1000, {}, false); }

bool isBroken(const Half& half) {
  // The relay has not ended its own direction before a half lingers, so a hang-up can only be a dead connection.
  pollfd entry = {half.fd, 0, 0};
  return half.stage < Stage::lingering && ::poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

Pair* pairHalves(uint32_t owner, Half& user, Half& device, std::string_view greeting, const PairLimits& limits,
                 double bytesPerSecond, const std::string& userKey, double userBytesPerSecond, uint32_t recording,
                 bool strict) {
  if (user.mode != Mode::held || device.mode != Mode::held || &user == &device) return nullptr;
  if (user.client && device.client) return nullptr;
  auto owned = std::make_unique<Pair>();
  Pair* pair = owned.get();
  pair->id = relay.nextId++;
  pair->owner = owner;
  pair->limits = limits;
  pair->lastMessageTick = relay.tick;
  const uint64_t now = uv_now(relay.loop);
  if (bytesPerSecond > 0) pair->pace = std::make_unique<Pace>(Pace{0, bytesPerSecond, now});
  if (userBytesPerSecond > 0) {
    pair->userKey = userKey;
    std::weak_ptr<Pace>& slot = relay.userPaces[userKey];
    pair->userPace = slot.lock();
    if (!pair->userPace) slot = pair->userPace = std::make_shared<Pace>(Pace{0, userBytesPerSecond, now});
  }
  pair->user = &user;
  pair->device = &device;
  user.userSide = true;
  user.mate = &device;
  device.mate = &user;
  for (Half* half : {&user, &device}) {
    half->pair = pair;
    half->mode = Mode::native;
    half->reader.maxMessageBytes = limits.maxMessageBytes;
    half->reader.fromServer = half->client;
    half->reader.toServer = half->mate->client;
    if (!greeting.empty()) sendText(*half, greeting);
    if (half->undelivered.empty()) {
      resumeReading(*half, kHeld);
    } else {
      markDirty(*half);  // what was kept is passed on in settle()
    }
  }
  relay.pairs.emplace(pair->id, owned.release());
  watch(*pair);
  if (recording != 0) startRecording(*pair, recording, strict);
  return pair;
}

}  // namespace couplet
