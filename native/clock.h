// Time for recordings: the wall clock as it was when a file was opened, carried on by the monotonic clock, so that a
// wall clock that is set back (or forward) meanwhile does not show in the file [M8].
#pragma once

#include <cstdint>

namespace couplet {

// Where time comes from; tests bring their own. Both in nanoseconds, callable on any thread.
struct ClockSource {
  int64_t (*realtimeNs)();
  int64_t (*monotonicNs)();
};

// CLOCK_REALTIME and CLOCK_MONOTONIC: the vDSO answers, no system call is made.
extern const ClockSource systemClock;

// One file's clock. Immutable once made, so any thread may ask it; never decreasing as the monotonic clock never is.
class FileClock {
 public:
  explicit FileClock(const ClockSource& source);

  // Nanoseconds since 1970-01-01 UTC, at least 0 and within the six bytes of milliseconds that a block may use [M4].
  int64_t wallNs(int64_t monotonicNs) const {
    const int64_t ns = monotonicNs + offsetNs_;
    return ns < 0 ? 0 : ns;
  }
  int64_t monotonicNs() const { return source_->monotonicNs(); }
  int64_t startNs() const { return startNs_; }

 private:
  const ClockSource* source_;
  int64_t offsetNs_ = 0;
  int64_t startNs_ = 0;
};

}  // namespace couplet
