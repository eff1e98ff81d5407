#include "clock.h"

#include <ctime>

namespace couplet {

namespace {

template <clockid_t clock>
int64_t read() {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

constexpr int kAnchorTries = 3;

}  // namespace

const ClockSource systemClock = {read<CLOCK_REALTIME>, read<CLOCK_MONOTONIC>};

FileClock::FileClock(const ClockSource& source) : source_(&source) {
  // The two clocks cannot be read in one moment: of a few tries the tightest counts, against being preempted between.
  int64_t tightest = INT64_MAX;
  for (int i = 0; i < kAnchorTries; i++) {
    const int64_t before = source.monotonicNs();
    const int64_t wall = source.realtimeNs();
    const int64_t after = source.monotonicNs();
    if (after - before >= tightest) continue;
    tightest = after - before;
    offsetNs_ = wall - (before + (after - before) / 2);
    startNs_ = wall < 0 ? 0 : wall;
  }
}

}  // namespace couplet
