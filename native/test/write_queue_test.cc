// The queue, the clock and the checksum by themselves.
#include "../write_queue.h"

#include <algorithm>
#include <thread>

#include "../clock.h"
#include "../crc32c.h"
#include "check.h"

using namespace couplet;
using namespace couplet::test;
using std::string;

namespace {

int64_t wallNow = 0;
int64_t monotonicNow = 0;
const ClockSource handClock = {[] { return wallNow; }, [] { return monotonicNow; }};

}  // namespace

TEST("[M8] fault 37: a file's clock goes on when the wall clock is stepped, and never back") {
  wallNow = 1'700'000'000'123'456'789;
  monotonicNow = 5'000'000'000;
  const FileClock clock(handClock);
  CHECK_EQ(clock.startNs(), 1'700'000'000'123'456'789);
  CHECK_EQ(clock.wallNs(clock.monotonicNs()), 1'700'000'000'123'456'789);
  wallNow -= 3'600'000'000'000;
  monotonicNow += 1'000'001;
  CHECK_EQ(clock.wallNs(clock.monotonicNs()), 1'700'000'000'124'456'790);
  wallNow = -1'000;
  const FileClock early(handClock);
  CHECK_EQ(early.wallNs(clock.monotonicNs()), 0);
  const FileClock real(systemClock);
  CHECK(llabs(real.wallNs(real.monotonicNs()) - systemClock.realtimeNs()) < 50'000'000);
}

TEST("[M8] CRC-32C gives the known values, by instruction, by tables and in pieces") {
  const string digits = "123456789";
  CHECK_EQ(crc32c(0, digits.data(), digits.size()), 0xe3069283u);
  CHECK_EQ(crc32c(0, string(32, '\0').data(), 32), 0x8a9136aau);
  CHECK_EQ(crc32c(0, string(32, '\xff').data(), 32), 0x62a8ab43u);
  Random random(seed);
  for (int round = 0; round < 500; round++) {
    const string bytes = random.bytes(random.below(round % 10 == 0 ? 20000 : 300));
    const uint32_t whole = crc32c(0, bytes.data(), bytes.size());
    CHECK_EQ(~crc32c_detail::byTables(~0u, bytes.data(), bytes.size()), whole);
    const size_t cut = random.below(bytes.size() + 1);
    CHECK_EQ(crc32c(crc32c(0, bytes.data(), cut), bytes.data() + cut, bytes.size() - cut), whole);
  }
}

TEST("[M9] what one thread puts into a queue another takes out: all of it, once, in order") {
  Random random(seed);
  ChunkPool pool;
  for (int round = 0; round < 20; round++) {
    WriteQueue queue(pool);
    const uint64_t takerSeed = random.next();
    const size_t total = 1 << 20;
    string taken;
    std::thread taker([&] {
      Random mine(takerSeed);
      while (taken.size() != total) {
        iovec pieces[5];
        size_t bytes = 0;
        const int count = queue.gather(pieces, 1 + static_cast<int>(mine.below(5)), queue.published(), bytes);
        size_t take = mine.below(3) == 0 ? mine.below(bytes + 1) : bytes;
        size_t left = take;
        for (int i = 0; i < count && left != 0; i++) {
          CHECK(pieces[i].iov_len != 0);
          const size_t here = pieces[i].iov_len < left ? pieces[i].iov_len : left;
          taken.append(static_cast<const char*>(pieces[i].iov_base), here);
          left -= here;
        }
        CHECK_EQ(left, 0u);
        queue.take(take);
        CHECK_EQ(queue.taken(), taken.size());
      }
    });
    string put;
    while (put.size() != total) {
      size_t length = random.below(4) == 0 ? random.below(40000) : random.below(200);
      if (length > total - put.size()) length = total - put.size();
      const string bytes = random.bytes(length);
      const bool large = random.below(2) == 0;
      const size_t kind = random.below(3);
      if (kind == 0 && length != 0 && length <= 200) {
        bytes.copy(queue.list().reserve(static_cast<uint32_t>(length), large), length);
      } else if (kind == 1 && length != 0) {
        ChunkList assembled(pool);
        assembled.copy(bytes.data(), length, large);
        queue.list().splice(assembled);
        CHECK(assembled.first() == nullptr);
      } else {
        queue.list().copy(bytes.data(), length, large);
      }
      put += bytes;
      if (random.below(3) == 0 || put.size() == total) queue.publish();
    }
    taker.join();
    CHECK(taken == put);
    CHECK_EQ(queue.backlog(), 0u);
  }
}

TEST("[M9] a queue that is emptied as it is filled allocates no more chunks than it needs at a time") {
  ChunkPool pool;
  std::vector<Chunk*> seen;
  WriteQueue queue(pool);
  for (int round = 0; round < 10000; round++) {
    const string bytes(100, 'x');
    queue.list().copy(bytes.data(), bytes.size(), false);
    queue.publish();
    iovec piece;
    size_t length = 0;
    CHECK_EQ(queue.gather(&piece, 1, queue.published(), length) >= 1, true);
    Chunk* chunk = reinterpret_cast<Chunk*>(reinterpret_cast<uintptr_t>(piece.iov_base) & ~uintptr_t{4095});
    if (std::find(seen.begin(), seen.end(), chunk) == seen.end()) seen.push_back(chunk);
    while (length != 0) {
      queue.take(length);
      queue.gather(&piece, 1, queue.published(), length);
    }
  }
  CHECK(seen.size() <= 6);  // two chunks, which may lie across pages
}
