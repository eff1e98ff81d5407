// FrameReader: what it refuses, when, and what it has handed on by then.
#include "harness.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using std::string_view;

namespace {

// Checks that `bad` after `good` is refused with `error` for any split, as soon as the reference refuses it, with all
// of `good` handed on and nothing else.
void refused(const string& good, const string& bad, FrameError error, uint64_t maxMessageBytes = 0) {
  const string stream = good + bad;
  const string kept = parseClientStream(good, maxMessageBytes).output;
  Expected expected(stream, {.maxMessageBytes = maxMessageBytes});
  CHECK(parseClientStream(good, maxMessageBytes).error == FrameError::none);
  CHECK(expected.at(stream.size(), true)->error == error);
  for (size_t split = 0; split <= stream.size(); split++) CHECK_EQ(feedAndCompare(expected, {split}), kept);
  feedAndCompare(expected, std::vector<size_t>(stream.size(), 1));
}

const string kGood = clientFrame(kFin | 1, "good", "mask");
const string kFragment = clientFrame(2, "begun", "mask");

string note(const char* what, uint64_t value) { return string(what) + " " + std::to_string(value); }

}  // namespace

TEST("RSV bits are refused on every frame") {
  for (const uint8_t opcode : {0, 1, 2, 8, 9, 10}) {
    for (int bits = 1; bits < 8; bits++) {
      context = note("opcode", opcode) + note(" RSV", bits);
      const string& before = opcode == 0 ? kFragment : kGood;
      refused(before, clientFrame(static_cast<uint8_t>(kFin | bits << 4 | opcode), "ab", "mask"), FrameError::protocol);
    }
  }
}

TEST("reserved opcodes are refused") {
  for (const uint8_t opcode : {3, 4, 5, 6, 7, 11, 12, 13, 14, 15}) {
    for (const uint8_t fin : {uint8_t{0}, kFin}) {
      context = note("opcode", opcode);
      refused(kGood, clientFrame(fin | opcode, "ab", "mask"), FrameError::protocol);
      refused(kFragment, clientFrame(fin | opcode, "", "mask"), FrameError::protocol);
    }
  }
}

TEST("a frame without a mask is refused at its second byte, whatever its length") {
  for (const uint8_t opcode : {1, 2, 8, 9, 10}) {
    for (const uint64_t length : std::initializer_list<uint64_t>{0, 1, 125, 126, 65536}) {
      context = note("opcode", opcode) + note(" length", length);
      refused(kGood, frameHeader(kFin | opcode, 0, length, Width::shortest).substr(0, 2), FrameError::protocol);
      refused("", frameHeader(kFin | opcode, 0, length, Width::shortest) + "payload", FrameError::protocol);
    }
  }
}

TEST("control frames in fragments or above 125 bytes are refused on the header") {
  for (const uint8_t opcode : {8, 9, 10}) {
    context = note("opcode", opcode);
    refused(kGood, clientHeader(opcode, 2, "mask"), FrameError::protocol);
    refused(kFragment, clientHeader(opcode, 0, "mask"), FrameError::protocol);
    for (const uint64_t length : std::initializer_list<uint64_t>{126, 127, 255, 256, 65536, ~uint64_t{0}}) {
      refused(kGood, clientHeader(kFin | opcode, length, "mask"), FrameError::protocol);
    }
  }
}

TEST("a close payload of one byte is refused; of none and of two it is not") {
  refused(kGood, clientFrame(kFin | 8, "\x03", "mask"), FrameError::protocol);
  for (const char* payload : {"", "\x03\xe8"}) {
    CHECK(parseClientStream(clientFrame(kFin | 8, payload), 0).close == payload);
    feedAndCompare(clientFrame(kFin | 8, payload));
  }
}

TEST("a continuation of nothing and a new message inside another are refused") {
  refused(kGood, clientFrame(kFin, "ab", "mask"), FrameError::protocol);
  refused("", clientFrame(0, "", "mask"), FrameError::protocol);
  refused(kFragment + clientFrame(kFin, "", "mask"), clientFrame(kFin, "", "mask"), FrameError::protocol);
  for (const uint8_t first : {uint8_t{1}, uint8_t{2}, uint8_t{kFin | 1}, uint8_t{kFin | 2}}) {
    refused(kFragment, clientFrame(first, "ab", "mask"), FrameError::protocol);
    refused(kFragment + clientFrame(0, "x"), clientFrame(first, "", "mask"), FrameError::protocol);
  }
}

TEST("a declared length with its top bit set is refused, limit or not; the largest other one is followed") {
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, (uint64_t{1} << 63) + 5}) {
    refused(kGood, clientHeader(kFin | 2, length, "mask"), FrameError::protocol);
    refused(kGood, clientHeader(kFin | 2, length, "mask"), FrameError::protocol, 100);
  }
  const uint64_t largest = (uint64_t{1} << 63) - 1;
  FrameReader reader;
  Recorder sink{reader};
  CHECK(feedPiece(reader, sink, clientHeader(kFin | 2, largest, string(4, '\0'))) == FrameError::none);
  CHECK_EQ(reader.payloadLeft(), largest);
  CHECK_EQ(reader.frameOutBytes(), 10u);
  CHECK_EQ(sink.out, frameHeader(kFin | 2, 0, largest, Width::shortest));
  CHECK(feedPiece(reader, sink, "abc") == FrameError::none);
  CHECK_EQ(reader.payloadLeft(), largest - 3);
  CHECK_EQ(reader.frameOutBytes(), 13u);
  CHECK_EQ(sink.out.substr(10), string("abc"));
}

TEST("[R26] a message of the limit passes, one byte more is refused on the header, before its payload") {
  for (const uint64_t limit : std::initializer_list<uint64_t>{1, 10, 125, 126, 65535, 65536}) {
    context = note("limit", limit);
    const string exact = clientFrame(kFin | 2, string(limit, 'x'), "mask");
    const string out = feedAndCompare(exact + exact, {}, {.maxMessageBytes = limit});
    CHECK_EQ(out.size(), 2 * (serverHeaderLength(limit) + limit));
    if (limit > 200) continue;
    refused(exact, clientHeader(kFin | 1, limit + 1, "mask"), FrameError::tooBig, limit);
    refused(exact, clientHeader(1, limit + 1, "mask"), FrameError::tooBig, limit);
    refused(exact, clientHeader(kFin | 1, (uint64_t{1} << 63) - 1, "mask"), FrameError::tooBig, limit);
  }
}

TEST("[R26] the limit counts a message's fragments together, from zero for each message, without control frames") {
  const string ping = clientFrame(kFin | 9, string(125, 'p'), "mask");
  const string six = clientFrame(2, "sixsix", "mask") + ping;
  const string message = six + clientFrame(0, "", "mask") + ping + clientFrame(kFin, "four", "mask") + ping;
  feedAndCompare(message + message + clientFrame(kFin | 1, "ten bytes.", "mask"), {}, {.maxMessageBytes = 10});
  refused(message + six, clientHeader(0, 5, "mask"), FrameError::tooBig, 10);
  refused(message + six, clientHeader(kFin, 5, "mask"), FrameError::tooBig, 10);
  refused(six + clientFrame(0, "four", "mask"), clientHeader(0, 1, "mask"), FrameError::tooBig, 10);
  feedAndCompare(six + clientFrame(0, "four", "mask") + clientFrame(kFin, "", "mask"), {}, {.maxMessageBytes = 10});
}
