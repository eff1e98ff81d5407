// The addon's view of admitted halves and of pairs: what they are made of and what can be done with them.
//
// Who owns what: `relay` owns every Half and Pair. A Half lives from hold() until its socket is closed; a Pair until
// both its halves are gone and its end is reported. Memory is freed in settle() alone, so that a pointer taken in one
// turn of the event loop stays good to the end of that turn.
//
// Every byte written to a socket after hold() goes through its Half's one queue. Nothing is written to a TLS socket,
// and no socket is closed, inside a read callback: both happen in settle(), in the loop's prepare and check phases.
#pragma once

#include <uv.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "frame.h"
#include "out_queue.h"
#include "tls_records.h"
#include "usockets.h"

namespace couplet {

// One tick of the sweep; every delay below is counted in ticks, so that an event loop that stood still for seconds
// does not make every half look dead at once.
constexpr uint32_t kTickMs = 250;
constexpr uint32_t kTicksPerSweep = 4;
// From the relay's own close frame to the end of the TCP connection; with one tick of slack within 2 s (R42).
constexpr uint32_t kCloseMs = 1700;
// How far into a waiting half's unread bytes is looked for a close frame; a waiting TLS half's are read for that.
constexpr int kPeekBytes = 65536;
// What uWebSockets.js's parser writes into before and after the bytes it is given.
constexpr size_t kParserPadding = 32;

// Who reads a half: nobody; this addon; uWebSockets.js, which hands whole messages to JavaScript.
enum class Mode : uint8_t { held, native, portable };

// The way of a half's end. `finishing`: the frame in transit to it is not complete, its close frame must wait.
// `draining`: its close frame is queued. `lingering`: all is written, the peer's end is awaited.
enum class Stage : uint8_t { open, finishing, draining, lingering, gone };

// Why a half's socket is not read.
enum PauseReason : uint8_t { kHeld = 1, kFlow = 2, kPace = 4, kAsked = 8, kFin = 16, kRecorder = 32 };
// Those by which the relay slows a sender down.
constexpr uint8_t kThrottles = kFlow | kPace | kRecorder;

// Order and meaning are those of `outcomes` in src/core/outcome.ts.
enum class Outcome : uint8_t {
  normal, noPeer, denied, duplicate, expired, revoked, limit, idle, slow, peerError, recordingFailed, shutdown
};
enum class ClosedBy : uint8_t { user, device, relay };
// What was wrong with a half; words in src/native/binding.ts.
enum class HalfError : uint8_t { none, protocol, tooBig, broken, vanished, pingTimeout, stalled };

// A token bucket, in bytes; may go below zero by one read.
struct Pace {
  double tokens = 0;
  double bytesPerSecond = 0;
  uint64_t filledMs = 0;
};

struct Half;
class Recording;

struct PairLimits {
  uint64_t highWaterBytes = 1 << 20;
  uint64_t lowWaterBytes = 1 << 18;
  uint64_t maxMessageBytes = 0;
  uint32_t idleTicks = 0;
  uint32_t stallTicks = 0;
  uint32_t lingerMs = 30000;
  uint32_t pingTicks = 0;
  bool hardClose = false;
};

struct DirectionCount {
  uint64_t bytes = 0;
  uint64_t messages = 0;
  uint64_t throttledMs = 0;   // its sender was not read, by one of kThrottles
  uint64_t flowPausedMs = 0;  // ... of that for its receiver's backlog, whatever else there was

  void operator+=(const DirectionCount& other) {
    bytes += other.bytes;
    messages += other.messages;
    throttledMs += other.throttledMs;
    flowPausedMs += other.flowPausedMs;
  }
};

// Sums over the pairs of one owner (one relay of the process) that are gone; its running pairs come on top.
struct Totals {
  DirectionCount fromUser, fromDevice;
  uint64_t flowPauses = 0;
};

struct Pair {
  uint32_t id = 0;
  uint32_t owner = 0;
  Half* user = nullptr;
  Half* device = nullptr;
  PairLimits limits;
  DirectionCount fromUser, fromDevice;
  uint64_t flowPauses = 0;
  uint32_t lastMessageTick = 0;
  std::unique_ptr<Pace> pace;
  std::shared_ptr<Pace> userPace;
  std::string userKey;
  Recording* recording = nullptr;  // until it ends or fails
  uint32_t recordingHandle = 0;    // 0: the session is not recorded
  bool recordsStrictly = false;
  bool ended = false;  // its cause is fixed: the first one counts
  bool reported = false;
  Outcome outcome = Outcome::normal;
  ClosedBy closedBy = ClosedBy::relay;
  HalfError error = HalfError::none;
};

struct Half {
  us_socket_t* socket = nullptr;
  ContextHooks* hooks = nullptr;
  Pair* pair = nullptr;
  Half* mate = nullptr;
  uint32_t id = 0;
  int fd = -1;
  Mode mode = Mode::held;
  Stage stage = Stage::open;
  uint8_t pausedBy = 0;
  bool userSide = false;
  bool link = false;           // stands for a half of another server, which judges and ends that half
  bool client = false;         // this server is the WebSocket client: frames come in plain and go out masked
  bool promised = false;       // held, and about to be paired: what it sent, and its end, are for its mate
  bool inPieces = false;       // the recorder has the beginning of a message of this half
  bool dirty = false;
  bool listedPaused = false;   // its id is in Relay::paused
  bool closeNow = false;       // to be closed in the next settle()
  bool peerClosed = false;     // its close frame has come
  bool finReceived = false;
  bool opaqueInput = false;    // input does not start at a frame boundary, or is broken: not parsed, thrown away
  bool keepsTail = false;      // what was queued before its close frame must reach it
  bool inTlsRead = false;
  bool tailInFrame = false;    // the queue's end is inside a frame
  bool tailInMessage = false;  // ... or between the fragments of a message
  uint32_t lastReadTick = 0;
  uint32_t lastWriteTick = 0;
  uint32_t pingTick = 0;       // when an unanswered ping was sent; 0: none
  uint32_t deadlineTick = 0;
  uint64_t throttledSinceMs = 0;
  uint64_t flowPausedSinceMs = 0;
  FrameReader reader;
  TlsRecords records;          // of a TLS socket's input
  FrameWalker sent;            // where the bytes written so far stand in the stream of frames
  OutQueue out;
  std::string closeFrame;      // waits for the end of the frame in transit
  std::string deferredPong;
  std::string deferredText;
  int peekedBytes = 0;  // how much was unread when a waiting half was last looked into
  // Reads that came before they may be passed on, each padded by kParserPadding on both sides: those of a waiting TLS
  // half, and on the portable path those that the TLS layer is not done with (flow.cc).
  std::vector<std::string> undelivered;

  us_poll_t* poll() const { return reinterpret_cast<us_poll_t*>(socket); }
  bool ssl() const { return hooks->ssl; }
  ClosedBy side() const { return userSide ? ClosedBy::user : ClosedBy::device; }
  // What is counted of the messages it sends; of a paired half.
  DirectionCount& count() const { return userSide ? pair->fromUser : pair->fromDevice; }
  // Whether frames from its mate still go to it.
  bool accepts() const { return stage == Stage::open || stage == Stage::finishing; }
};

struct Relay {
  std::vector<Half*> byFd;
  std::unordered_map<uint32_t, Half*> halves;
  std::unordered_map<uint32_t, Pair*> pairs;
  std::unordered_map<std::string, std::weak_ptr<Pace>> userPaces;
  std::vector<Half*> dirty, closing, paced, graveyard;
  std::vector<uint32_t> paused;  // ids of all halves that are not read, and of some that were not
  std::vector<Pair*> ended, done;
  std::unordered_map<uint32_t, Pair*> recorded;  // pairs with a recording, by its handle
  uint32_t nextId = 1;
  uint32_t tick = 1;
  std::unordered_map<uint32_t, Totals> totals;  // by owner
  uv_loop_t* loop = nullptr;
  std::function<void(Pair&)> onPairEnd;  // called in settle(), outside every socket callback

  Half* find(us_socket_t* socket) const {
    const size_t fd = static_cast<size_t>(us.pollFd(reinterpret_cast<us_poll_t*>(socket)));
    return fd < byFd.size() ? byFd[fd] : nullptr;
  }
  Half* half(uint32_t id) const {
    const auto found = halves.find(id);
    return found == halves.end() ? nullptr : found->second;
  }
  Pair* pair(uint32_t id) const {
    const auto found = pairs.find(id);
    return found == pairs.end() ? nullptr : found->second;
  }
};

extern Relay relay;

// -- hold.cc: halves and pairs come to be ------------------------------------------------------------------------

// Takes an open WebSocket under the addon's care and stops reading it. Returns the half's id, 0 where the socket is
// closed already; `error` is set where its context's handlers could not be replaced.
uint32_t hold(us_socket_t* socket, bool ssl, std::string& error);
// Makes a held half of an open socket of a hooked context.
Half& takeSocket(us_socket_t* socket, ContextHooks* hooks);
// Asks the operating system whether the peer of a held half has hung up, closed its WebSocket or vanished; one that has
// is closed by this.
bool isGone(Half& half);
// Answers the close frame of a waiting half.
void answerGoodbye(Half& half);
// Whether there is a close frame among the first bytes a client, or a server, sent.
bool holdsCloseFrame(std::string_view bytes, bool fromServer);
// Whether the connection of a half is reset or otherwise dead, whatever its socket polls for.
bool isBroken(const Half& half);
// Pairs two held halves: both get `greeting` as a text message where it is not empty, then each other's frames. Null
// where one of them is not held, and where this server is the client of both: frames would grow on their way.
Pair* pairHalves(uint32_t owner, Half& user, Half& device, std::string_view greeting, const PairLimits& limits,
                 double bytesPerSecond, const std::string& userKey, double userBytesPerSecond, uint32_t recording,
                 bool strict);

// -- flow.cc: reading ----------------------------------------------------------------------------------------------

const Handlers& socketHandlers(bool ssl);
void pauseReading(Half& half, uint8_t reason);
void resumeReading(Half& half, uint8_t reason);
// A failed write made the socket readable again (and so does an upgrade): take that back where it is paused.
void applyPause(Half& half);
// Keeps bytes that came before they may be passed on, and tells what is kept.
void keepRead(Half& half, std::string_view bytes);
std::string keptBytes(const Half& half);
// Passes on what was kept of a half that does not wait any more. Outside every socket callback.
void deliverKept(Half& half);

// -- half.cc: writing and ending -----------------------------------------------------------------------------------

// Queues bytes that are whole frames of the relay's own; the caller has seen to it that the queue ends between frames.
void append(Half& half, std::string_view bytes);
void markDirty(Half& half);
// Writes what the socket takes, and does what a drained queue allows.
void flush(Half& half);
// Queues a text message of the relay's own, after the message in transit.
void sendText(Half& half, std::string_view text);
// Queues a ping; the caller has seen to it that the queue ends between frames.
void sendPing(Half& half);
// Answers a ping, bounded: a peer that does not read gets one pong for its latest ping.
void sendPong(Half& half, std::string_view payload);
// Starts a half's end: close frame after what must still be delivered, TCP end at the deadline at the latest.
void startClose(Half& half, uint16_t code, std::string_view reason, bool keepTail);
// The frame in transit to `half` has ended: what waited for that goes out.
void atFrameEnd(Half& half, bool messageEnd);
// Ends a pair from the relay's side.
void endPair(Pair& pair, Outcome outcome, uint16_t code, std::string_view reason, bool keepTail,
             ClosedBy by = ClosedBy::relay, HalfError error = HalfError::none);
// A half's peer said goodbye with a close frame, ended its stream or broke a rule.
void onPeerClose(Half& half, std::string_view payload);
void onPeerEnd(Half& half, bool orderly, HalfError error);
void onFrameError(Half& half, FrameError error);
// The socket is closed and about to be freed.
void onSocketClosed(Half& half);

// -- link.cc: halves that stand for halves of other servers --------------------------------------------------------

// Takes over the TCP connection behind `fd` (by a descriptor of its own: the caller closes that one), whose WebSocket
// handshake is done and whose client this server is. `head`: what was read behind the handshake. Returns the id of a
// held half, 0 where this uWebSockets.js cannot do that or the connection is gone.
uint32_t adoptLink(int fd, std::string_view head);

// What a half's own close frame does to its pair: how that ends, and what its mate is told.
struct Goodbye {
  Outcome outcome = Outcome::normal;
  ClosedBy by = ClosedBy::relay;
  HalfError error = HalfError::none;
  uint16_t code = 1000;
  std::string_view reason = "peer closed";
  bool keepTail = true;
};
// `code` 0: the frame held none.
Goodbye goodbyeOf(const Half& half, uint16_t code, std::string_view reason);

// -- pair_recording.cc: what a recorded pair has to do with the recorder ------------------------------------------

// Records what a pair forwards from now on; `handle` is the recorder's.
void startRecording(Pair& pair, uint32_t handle, bool strict);
// When what is read from a half of a recorded pair has arrived.
int64_t recordingNowNs(const Half& from);
// Takes payload of a data frame, as FrameReader tells of it.
void record(Half& from, const char* data, size_t length, uint64_t left, bool isBinary, bool fin, int64_t arrivedNs);
// At the end of a frame, where record() has asked for that: R35, nothing behind a message that is not recorded any more.
void afterRecorded(Half& half);
// After each read of a recorded half: back-pressure, and the end of a session whose strict recording has ended.
void afterRecording(Half& half);
// The pair forwards nothing any more.
void stopRecording(Pair& pair);

// -- sweep.cc: clocks ----------------------------------------------------------------------------------------------

void startLoopHooks(uv_loop_t* loop);
// Closes, flushes, reports and frees what the turn left to do.
void settle();
uint32_t ticksFor(uint64_t ms);
// Puts a pair on the wheel: the sweep in which it may have to be pinged, or may be idle or stalled, looks at it.
void watch(const Pair& pair);
// Charges bytes of a half's mate-bound payload to its pair's buckets; pauses the half where one is empty.
void chargePace(Half& half, uint64_t bytes);

}  // namespace couplet
