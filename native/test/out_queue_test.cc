// OutQueue against a std::string.
#include "../out_queue.h"

#include <memory>

#include "check.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using std::string_view;

namespace {

constexpr size_t kChunk = 65536;

string contents(const OutQueue& queue) {
  string all;
  queue.forEach([&](const char* data, size_t length) {
    CHECK(length != 0);
    all.append(data, length);
    return true;
  });
  return all;
}

void check(const OutQueue& queue, string_view expected) {
  CHECK_EQ(queue.size(), expected.size());
  CHECK_EQ(queue.empty(), expected.empty());
  CHECK_EQ(queue.front().empty(), expected.empty());
  CHECK(expected.starts_with(queue.front()));
  CHECK(contents(queue) == expected);
}

void append(OutQueue& queue, string_view bytes) {
  // In an allocation of its own, so that ASan sees a byte read too far.
  const std::unique_ptr<char[]> exact(new char[bytes.size()]);
  bytes.copy(exact.get(), bytes.size());
  queue.append(exact.get(), bytes.size());
}

}  // namespace

TEST("[R22] random appends, consumes and truncates on three queues that share chunks lose and reorder nothing") {
  Random random(seed);
  const std::vector<size_t> sizes = {0, 1, 2, 100, 4096, kChunk - 1, kChunk, kChunk + 1, 2 * kChunk, 3 * kChunk + 17};
  {
    OutQueue queues[3];
    string expected[3];
    for (int round = 0; round < 3000; round++) {
      context = "COUPLET_TEST_SEED=" + std::to_string(seed) + ", round " + std::to_string(round);
      const size_t which = random.below(3);
      OutQueue& queue = queues[which];
      string& bytes = expected[which];
      const string before(queue.front());
      const size_t size = random.below(3) == 0 ? random.pick(sizes) : random.below(2000);
      switch (bytes.size() > 6 * kChunk ? 1 + random.below(3) : random.below(6)) {
        case 1: {  // a random length, or exactly the first piece
          size_t length = random.below(2) == 0 ? queue.front().size() : size;
          if (length > bytes.size()) length = bytes.size();
          queue.consume(length);
          bytes.erase(0, length);
          break;
        }
        case 2: {
          const size_t left = random.below(4) == 0 ? size : random.below(bytes.size() + 100);
          queue.truncate(left);
          if (left < bytes.size()) bytes.resize(left);
          break;
        }
        case 3:
          queue.consume(bytes.size());
          bytes.clear();
          break;
        default: {
          const string more = random.bytes(size);
          append(queue, more);
          bytes += more;
          CHECK(queue.front().starts_with(before));  // a TLS write is repeated with the same bytes, and as many
          break;
        }
      }
      check(queue, bytes);
      CHECK_EQ(OutQueue::totalBytes, expected[0].size() + expected[1].size() + expected[2].size());
    }
    append(queues[0], "left in the queue");
  }
  CHECK_EQ(OutQueue::totalBytes, 0u);
}

TEST("appends, consumes and truncates around the end of a chunk") {
  const string bytes = Random(seed).bytes(2 * kChunk + 2);
  const std::vector<size_t> sizes = {
      0, 1, kChunk - 1, kChunk, kChunk + 1, 2 * kChunk - 1, 2 * kChunk, 2 * kChunk + 1, 2 * kChunk + 2};
  for (const size_t first : sizes) {
    for (const size_t taken : sizes) {
      for (const size_t kept : sizes) {
        if (taken > first) continue;
        context = "append " + std::to_string(first) + ", consume " + std::to_string(taken);
        context += ", truncate " + std::to_string(kept);
        OutQueue queue;
        append(queue, string_view(bytes).substr(0, first));
        queue.consume(taken);
        string expected = bytes.substr(taken, first - taken);
        check(queue, expected);
        queue.truncate(kept);
        if (kept < expected.size()) expected.resize(kept);
        check(queue, expected);
        append(queue, "then");
        check(queue, expected + "then");
        CHECK_EQ(OutQueue::totalBytes, expected.size() + 4);
      }
    }
  }
  CHECK_EQ(OutQueue::totalBytes, 0u);
}

TEST("forEach stops where it is told to") {
  OutQueue queue;
  append(queue, string(3 * kChunk, 'x'));
  for (size_t wanted = 1; wanted <= 3; wanted++) {
    size_t seen = 0;
    queue.forEach([&](const char*, size_t) { return ++seen < wanted; });
    CHECK_EQ(seen, wanted);
  }
}

TEST("more chunks than are kept for reuse come and go, and reused ones hold nothing old") {
  for (int round = 0; round < 2; round++) {
    OutQueue queue;
    const string bytes = Random(seed + round).bytes(200 * kChunk + 5);
    append(queue, bytes);
    CHECK_EQ(OutQueue::totalBytes, bytes.size());
    CHECK(contents(queue) == bytes);
    if (round == 0) {
      queue.truncate(0);
    } else {
      queue.consume(bytes.size());
    }
    check(queue, "");
    append(queue, "again");
    check(queue, "again");
  }
  CHECK_EQ(OutQueue::totalBytes, 0u);
}
