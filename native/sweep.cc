// The clocks: what is done at the end of each turn of the event loop, at each tick, and at each sweep. A tick walks
// the few halves that are being closed or paced; a sweep (once a second) walks the halves that are paused and, of the
// pairs, those whose slot of the wheel has come. Messages do not touch the wheel: they only move the tick at which
// something may be due, and a pair that is looked at too early is put into a later slot.
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "half.h"

namespace couplet {

namespace {

uv_prepare_t prepareHandle;
uv_check_t checkHandle;
uv_timer_t timerHandle;
bool started = false;

// A wheel with a slot for each sweep of the next minute or so, rather than a walk of all pairs in each sweep, which for
// 15,000 idle halves took 1.2 % of a core: hardly any of them is in a cache.
constexpr uint32_t kWheelSlots = 64;
std::vector<uint32_t> wheel[kWheelSlots];  // ids of pairs; a pair that is gone is passed over
uint32_t sweepCount = 0;

void fill(Pace& pace, uint64_t now) {
  pace.tokens += pace.bytesPerSecond * static_cast<double>(now - pace.filledMs) / 1000;
  if (pace.tokens > pace.bytesPerSecond / 4) pace.tokens = pace.bytesPerSecond / 4;  // a burst of one tick
  pace.filledMs = now;
}

bool spent(const Pair& pair) {
  return (pair.pace && pair.pace->tokens < 0) || (pair.userPace && pair.userPace->tokens < 0);
}

void refill(Pair& pair) {
  const uint64_t now = uv_now(relay.loop);
  if (pair.pace) fill(*pair.pace, now);
  if (pair.userPace) fill(*pair.userPace, now);
}

void resumePaced() {
  std::vector<Half*> still;
  for (Half* half : relay.paced) {
    if (half->stage == Stage::gone || half->pair == nullptr || !(half->pausedBy & kPace)) continue;
    refill(*half->pair);
    if (spent(*half->pair)) {
      still.push_back(half);
    } else {
      resumeReading(*half, kPace);
    }
  }
  relay.paced.swap(still);
}

void endOverdue() {
  std::vector<Half*> still;
  for (Half* half : relay.closing) {
    if (half->stage == Stage::gone) continue;
    if (half->closeNow || relay.tick < half->deadlineTick) {
      still.push_back(half);
      continue;
    }
    // A tail that was promised and could not be delivered is not a normal end.
    if (half->keepsTail && half->stage < Stage::lingering && half->pair != nullptr && !half->pair->reported &&
        half->pair->outcome == Outcome::normal) {
      half->pair->outcome = Outcome::slow;
      half->pair->error = HalfError::stalled;
    }
    half->stage = Stage::lingering;
    half->closeNow = true;
    markDirty(*half);
    still.push_back(half);
  }
  relay.closing.swap(still);
}

// A link's progress is that of a half elsewhere, seen through two sockets' buffers: the server that has the half judges
// it, and tells.
bool judgesProgress(const Half& half, const PairLimits& limits) { return limits.stallTicks != 0 && !half.link; }

// Pings, dead peers and stalled writes of one half; false when the pair was ended.
bool checkHalf(Half& half, Pair& pair) {
  if (half.stage != Stage::open) return true;
  if (!half.out.empty()) {
    // It is not judged by pings (they wait behind its backlog) but by progress.
    if (judgesProgress(half, pair.limits) && relay.tick - half.lastWriteTick >= pair.limits.stallTicks) {
      endPair(pair, Outcome::slow, 4503, "relay.stallMs: no progress", false, ClosedBy::relay, HalfError::stalled);
      return false;
    }
    return true;
  }
  if (pair.limits.pingTicks == 0 || half.tailInFrame) return true;
  if (half.pausedBy != 0) {
    // The far server's pings wait unread as long as a half here is slow; these tell it that this server lives.
    if (half.link && (half.pingTick == 0 || relay.tick - half.pingTick >= pair.limits.pingTicks)) sendPing(half);
    return true;
  }
  if (half.pingTick != 0) {
    if (relay.tick - half.pingTick < pair.limits.pingTicks) return true;
    onPeerEnd(half, false, HalfError::pingTimeout);
    return false;
  }
  if (relay.tick - half.lastReadTick >= pair.limits.pingTicks) {
    sendPing(half);
  }
  return true;
}

// In how many ticks checkHalf() may have something to do, at the earliest.
uint32_t ticksToCheck(const Half& half, const PairLimits& limits) {
  uint32_t ticks = kWheelSlots * kTicksPerSweep;
  const auto atMost = [&ticks](uint32_t since, uint32_t limit) {
    const uint32_t passed = relay.tick - since;
    ticks = std::min(ticks, passed < limit ? limit - passed : 0);
  };
  if (judgesProgress(half, limits)) atMost(half.out.empty() ? relay.tick : half.lastWriteTick, limits.stallTicks);
  // A pause says nothing about the peer: its time begins when it is read again.
  if (limits.pingTicks != 0) {
    atMost(half.pausedBy != 0 ? relay.tick : half.pingTick != 0 ? half.pingTick : half.lastReadTick, limits.pingTicks);
  }
  return ticks;
}

// A waiting TLS half's unread bytes cannot be looked at where they are: they are read, as long as they are few.
void readWaiting(Half& half) {
  int unread = 0;
  if (ioctl(half.fd, FIONREAD, &unread) != 0 || unread == 0) return;
  half.peekedBytes += unread;
  if (half.peekedBytes <= kPeekBytes) resumeReading(half, kHeld);
}

// A paused socket polls for nothing, so its hang-up is not seen by the event loop: ask for all of them at once. A held
// half whose peer has ended is gone; a sender paused for flow control may have ended its stream and still be owed the
// delivery of what it sent, so only a broken connection counts.
void findVanished() {
  static std::vector<pollfd> entries;
  static std::vector<Half*> asked;
  entries.clear();
  asked.clear();
  std::erase_if(relay.paused, [](uint32_t id) {
    Half* half = relay.half(id);
    if (half == nullptr) return true;
    half->listedPaused = half->pausedBy != 0;
    if (half->pausedBy == 0) return true;
    if (half->stage == Stage::lingering) return false;
    const bool waits = half->mode == Mode::held && !half->promised;
    entries.push_back({half->fd, static_cast<short>(waits ? POLLIN | POLLRDHUP : 0), 0});
    asked.push_back(half);
    return false;
  });
  if (entries.empty() || ::poll(entries.data(), entries.size(), 0) < 1) return;
  for (size_t i = 0; i < entries.size(); i++) {
    const short events = entries[i].revents;
    Half& half = *asked[i];
    if (half.mode == Mode::held && !half.promised) {
      if (events != 0 && !isGone(half) && half.ssl()) readWaiting(half);
    } else if (events & (POLLERR | POLLHUP)) {
      half.closeNow = true;
      markDirty(half);
    }
  }
}

void check(Pair& pair) {
  if (pair.ended) return;
  if (pair.limits.idleTicks != 0 && relay.tick - pair.lastMessageTick > pair.limits.idleTicks) {
    endPair(pair, Outcome::idle, 4504, "relay.idleMs: no message", false);
    return;
  }
  if (pair.user != nullptr && !checkHalf(*pair.user, pair)) return;
  if (pair.device != nullptr && !checkHalf(*pair.device, pair)) return;
  watch(pair);
}

void sweep() {
  sweepCount++;
  static std::vector<uint32_t> due;
  due.clear();
  due.swap(wheel[sweepCount % kWheelSlots]);
  for (const uint32_t id : due) {
    if (Pair* pair = relay.pair(id)) check(*pair);
  }
  findVanished();
}

void onTick(uv_timer_t*) {
  relay.tick++;
  resumePaced();
  endOverdue();
  if (relay.tick % kTicksPerSweep == 0) sweep();
}

void freePair(Pair* pair) {
  Totals& totals = relay.totals[pair->owner];
  totals.fromUser += pair->fromUser;
  totals.fromDevice += pair->fromDevice;
  totals.flowPauses += pair->flowPauses;
  if (pair->userPace && pair->userPace.use_count() == 1) relay.userPaces.erase(pair->userKey);
  relay.pairs.erase(pair->id);
  delete pair;
}

}  // namespace

void watch(const Pair& pair) {
  uint32_t ticks = kWheelSlots * kTicksPerSweep;
  if (pair.limits.idleTicks != 0) {
    const uint32_t passed = relay.tick - pair.lastMessageTick;
    ticks = std::min(ticks, passed <= pair.limits.idleTicks ? pair.limits.idleTicks + 1 - passed : 0);
  }
  if (pair.user != nullptr) ticks = std::min(ticks, ticksToCheck(*pair.user, pair.limits));
  if (pair.device != nullptr) ticks = std::min(ticks, ticksToCheck(*pair.device, pair.limits));
  const uint32_t sweeps = std::clamp((ticks + kTicksPerSweep - 1) / kTicksPerSweep, 1u, kWheelSlots - 1);
  wheel[(sweepCount + sweeps) % kWheelSlots].push_back(pair.id);
}

uint32_t ticksFor(uint64_t ms) { return static_cast<uint32_t>((ms + kTickMs - 1) / kTickMs); }

void chargePace(Half& half, uint64_t bytes) {
  Pair& pair = *half.pair;
  refill(pair);
  if (pair.pace) pair.pace->tokens -= static_cast<double>(bytes);
  if (pair.userPace) pair.userPace->tokens -= static_cast<double>(bytes);
  if (!spent(pair) || half.pausedBy & kPace || half.stage != Stage::open) return;
  pauseReading(half, kPace);
  relay.paced.push_back(&half);
}

void settle() {
  static std::vector<Half*> work;
  static std::vector<Pair*> over;
  while (!relay.dirty.empty() || !relay.ended.empty()) {
    work.clear();
    work.swap(relay.dirty);
    for (Half* half : work) {
      half->dirty = false;
      if (half->stage == Stage::gone) continue;
      if (half->closeNow) {
        if (half->finReceived || half->peerClosed || half->stage == Stage::lingering) {
          us.shutdown(half->ssl(), half->socket);
        }
        us.close(half->ssl(), half->socket, 0, nullptr);
      } else {
        if (half->mode != Mode::held && !half->undelivered.empty()) deliverKept(*half);
        if (half->mode == Mode::native && half->stage != Stage::gone) flush(*half);
      }
    }
    over.swap(relay.ended);
    for (Pair* pair : over) {
      if (relay.onPairEnd) relay.onPairEnd(*pair);
    }
    over.clear();
  }
  if (relay.graveyard.empty()) return;
  std::erase_if(relay.closing, [](Half* half) { return half->stage == Stage::gone; });
  std::erase_if(relay.paced, [](Half* half) { return half->stage == Stage::gone; });
  for (Half* half : relay.graveyard) delete half;
  relay.graveyard.clear();
  for (Pair* pair : relay.done) freePair(pair);
  relay.done.clear();
}

void startLoopHooks(uv_loop_t* loop) {
  if (started) return;
  started = true;
  relay.loop = loop;
  uv_prepare_init(loop, &prepareHandle);
  uv_prepare_start(&prepareHandle, [](uv_prepare_t*) { settle(); });
  uv_check_init(loop, &checkHandle);
  uv_check_start(&checkHandle, [](uv_check_t*) { settle(); });
  uv_timer_init(loop, &timerHandle);
  uv_timer_start(&timerHandle, onTick, kTickMs, kTickMs);
  uv_unref(reinterpret_cast<uv_handle_t*>(&prepareHandle));
  uv_unref(reinterpret_cast<uv_handle_t*>(&checkHandle));
  uv_unref(reinterpret_cast<uv_handle_t*>(&timerHandle));
}

}  // namespace couplet
