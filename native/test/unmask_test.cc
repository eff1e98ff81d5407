// unmask, writeServerHeader and FrameWalker, each against the plainest way to do the same.
#include "harness.h"

using namespace couplet;
using namespace couplet::test;
using std::string;

TEST("[R22] unmask: every length to 300, every shift to the front by 0 to 40, every alignment") {
  Random random(seed);
  constexpr size_t kMostShift = 40, kAlignments = 16;
  const string source = random.bytes(300);
  for (size_t length = 0; length <= source.size(); length++) {
    const string maskBytes = random.bytes(4);
    uint8_t mask[4];
    memcpy(mask, maskBytes.data(), 4);
    string expected = source.substr(0, length);
    for (size_t i = 0; i < length; i++) expected[i] = static_cast<char>(expected[i] ^ maskBytes[i % 4]);
    for (size_t align = 0; align < kAlignments; align++) {
      // Sized so that the source ends where the allocation does.
      const std::unique_ptr<char[]> buffer(new char[kMostShift + align + length]);
      char* const src = buffer.get() + kMostShift + align;
      for (size_t shift = 0; shift <= kMostShift; shift++) {
        memset(buffer.get(), 0x55, kMostShift + align);
        memcpy(src, source.data(), length);
        char* const dst = src - shift;
        unmask(dst, src, length, mask);
        const bool same = memcmp(dst, expected.data(), length) == 0;
        const bool beforeUntouched = dst == buffer.get() || dst[-1] == 0x55;
        if (same && beforeUntouched) continue;
        context = "length " + std::to_string(length) + ", shift " + std::to_string(shift);
        context += ", alignment " + std::to_string(align);
        CHECK_EQ(string(dst, length), expected);
        CHECK(beforeUntouched);
      }
    }
  }
}

TEST("writeServerHeader takes the shortest form, big end first, and writes no byte more") {
  const struct {
    uint64_t length;
    string bytes;
  } cases[] = {
      {0, {'\x82', 0}},
      {1, {'\x82', 1}},
      {125, {'\x82', 125}},
      {126, {'\x82', 126, 0, 126}},
      {127, {'\x82', 126, 0, 127}},
      {0x1234, {'\x82', 126, 0x12, 0x34}},
      {65535, {'\x82', 126, '\xff', '\xff'}},
      {65536, {'\x82', 127, 0, 0, 0, 0, 0, 1, 0, 0}},
      {0x0123456789abcdef, {'\x82', 127, 1, 0x23, 0x45, 0x67, '\x89', '\xab', '\xcd', '\xef'}},
  };
  for (const auto& expected : cases) {
    context = "length " + std::to_string(expected.length);
    const std::unique_ptr<char[]> exact(new char[expected.bytes.size()]);
    CHECK_EQ(writeServerHeader(exact.get(), kFin | 2, expected.length), expected.bytes.size());
    CHECK_EQ(string(exact.get(), expected.bytes.size()), expected.bytes);
    CHECK_EQ(serverHeaderLength(expected.length), expected.bytes.size());
  }
}

TEST("the walker knows every boundary, for every split, with empty frames and every header width") {
  string stream = serverFrame(kFin | 1, "") + serverFrame(kFin | 2, "abc") + serverFrame(1, "") + serverFrame(0, "");
  stream += serverFrame(kFin, string(125, 'x')) + serverFrame(kFin | 9, "p") + serverFrame(kFin | 2, string(126, 'y'));
  for (size_t first = 0; first <= stream.size(); first++) {
    for (size_t second = 0; first + second <= stream.size(); second++) walkAndCompare(stream, {first, second});
  }
  walkAndCompare(stream, std::vector<size_t>(stream.size(), 1));
  string large = serverFrame(kFin | 2, string(65535, 'a')) + serverFrame(kFin | 2, string(65536, 'b'));
  large += serverFrame(kFin | 1, "");
  walkAndCompare(large, {});
  for (const size_t piece : {1000, 65536}) walkAndCompare(large, std::vector<size_t>(large.size() / piece, piece));
  for (size_t split = 65535; split < 65560; split++) walkAndCompare(large, {split});
}

TEST("the walker stops at the next boundary, not at the one it stands on") {
  const string stream = serverFrame(kFin | 2, "abc") + serverFrame(kFin | 1, "") + serverFrame(kFin | 2, "de");
  FrameWalker walker;
  CHECK_EQ(walker.walk(stream.data(), stream.size(), true), 5u);
  CHECK(walker.atBoundary());
  CHECK_EQ(walker.walk(stream.data() + 5, stream.size() - 5, true), 2u);
  CHECK_EQ(walker.walk(stream.data() + 7, 1, true), 1u);
  CHECK(!walker.atBoundary());
  CHECK_EQ(walker.walk(stream.data() + 8, 3, true), 3u);
  CHECK(walker.atBoundary());
  CHECK_EQ(walker.walk(stream.data(), 0, true), 0u);
}

TEST("a walker that is set goes on from there") {
  const string next = serverFrame(kFin | 2, "abc");
  for (const size_t left : {0, 1, 5, 200}) {
    const string stream = string(left, '\x7f') + next + next;
    FrameWalker walker;
    walker.walk("\x82\x7e\x01", 3);  // inside a header: what set() must forget
    CHECK(!walker.atBoundary());
    walker.set(left);
    CHECK_EQ(walker.atBoundary(), left == 0);
    if (left != 0) CHECK_EQ(walker.walk(stream.data(), stream.size(), true), left);
    CHECK(walker.atBoundary());
    CHECK_EQ(walker.walk(stream.data() + left, stream.size() - left, true), next.size());
    CHECK(walker.atBoundary());
  }
}
