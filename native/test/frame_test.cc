// FrameReader: what comes out of what goes in, by literal bytes and against the reference.
#include "harness.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using std::string_view;

namespace {

const std::vector<size_t> kLengths = {0, 1, 2, 3, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 200000};

// One reader and its sink, for tests that feed by hand.
struct Hand {
  FrameReader reader;
  Recorder sink{reader};
  FrameError feed(string_view bytes) { return feedPiece(reader, sink, bytes); }
};

string note(const char* what, uint64_t value) { return string(what) + " " + std::to_string(value); }

}  // namespace

TEST("[R22] a masked Hello comes out as a server sends it") {
  Hand hand;
  CHECK(hand.feed(string_view("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11)) == FrameError::none);
  CHECK_EQ(hand.sink.out, string_view("\x81\x05Hello"));
  CHECK_EQ(hand.reader.messages, 1u);
  CHECK_EQ(hand.reader.bytes, 5u);
}

TEST("[R22] every length in every header width keeps its type and payload and gets the shortest server header") {
  Random random(seed);
  for (const size_t length : kLengths) {
    for (const uint8_t first : {kFin | 1, kFin | 2}) {
      for (const Width width : {Width::shortest, Width::bits16, Width::bits64}) {
        context = note("payload of", length);
        const string payload = random.bytes(length);
        const string frame = clientFrame(first, payload, random.bytes(4), width);
        const size_t header = frame.size() - length;
        for (const size_t split : {size_t{1}, header - 1, header, header + length / 2, header + length / 2 + 3}) {
          CHECK_EQ(feedAndCompare(frame, {split, 1}), serverFrame(first, payload));
        }
      }
    }
  }
}

TEST("[R22] a stream comes out the same for every split and every pair of splits") {
  const string stream = sampleStream();
  for (const bool boundaries : {false, true}) {
    Expected expected(stream, {.boundaries = boundaries});
    for (size_t first = 0; first <= stream.size(); first++) {
      for (size_t second = 0; first + second <= stream.size(); second++) {
        context = note("split after", first) + note(" and", second) + " bytes more";
        feedAndCompare(expected, {first, second});
      }
    }
    feedAndCompare(expected, std::vector<size_t>(stream.size(), 1));
  }
}

TEST("[R22] random streams, valid and not, come out the same in random pieces") {
  Random random(seed);
  for (int round = 0; round < 2000; round++) {
    context = note("COUPLET_TEST_SEED", seed) + note(", round", round);
    string stream;
    bool fragmented = false;
    for (size_t count = random.below(30); count > 0; count--) {
      const bool fin = random.below(2) != 0;
      const uint8_t opcode = fragmented ? 0 : static_cast<uint8_t>(1 + random.below(2));
      const size_t limit = random.below(8) == 0 ? 3000 : 40;
      const Width width = random.pick<Width>({Width::shortest, Width::shortest, Width::bits16, Width::bits64});
      if (random.below(4) == 0) {
        const uint8_t first = static_cast<uint8_t>(kFin | (9 + random.below(2)));
        stream += clientFrame(first, random.bytes(random.below(126)), random.bytes(4));
      } else {
        stream += clientFrame((fin ? kFin : 0) | opcode, random.bytes(random.below(limit)), random.bytes(4), width);
        fragmented = !fin;
      }
    }
    if (!stream.empty() && random.below(2) == 0) stream[random.below(stream.size())] ^= 1 << random.below(8);
    if (random.below(2) == 0) stream.resize(random.below(stream.size() + 1));
    Reading reading;
    if (random.below(2) == 0) reading.maxMessageBytes = 1 + random.below(4000);
    reading.boundaries = random.below(2) == 0;
    Expected expected(stream, reading, 1 << 16);
    std::vector<size_t> lengths;
    const size_t longest = 1 + random.below(200);
    for (size_t sum = 0; sum < stream.size(); sum += lengths.back()) lengths.push_back(random.below(longest + 1));
    feedAndCompare(expected, lengths);
  }
}

TEST("[R22] what is read at once leaves as one run, in place, with control frames taken out") {
  const string stream = sampleStream();
  Hand hand;
  CHECK(hand.feed(stream) == FrameError::none);
  CHECK_EQ(hand.sink.runs, 1u);
  CHECK(hand.sink.lastRun == hand.sink.bufferStart + kFeedHeadroom + 4);  // a server header is four bytes shorter
  CHECK_EQ(hand.sink.out, parseClientStream(stream, 0).output);
}

TEST("a header that began in an earlier read is written into the headroom, never before it") {
  for (const size_t length : {size_t{5}, size_t{300}, size_t{70000}}) {
    for (const Width width : {Width::shortest, Width::bits16, Width::bits64}) {
      const string payload(length, 'x');
      const string frame = clientFrame(kFin | 2, payload, "mask", width);
      const size_t client = frame.size() - length;
      const size_t server = serverHeaderLength(length);
      for (size_t split = 1; split < client; split++) {
        context = note("header of", client) + note(" split after", split);
        Hand hand;
        CHECK(hand.feed(string_view(frame).substr(0, split)) == FrameError::none);
        CHECK_EQ(hand.sink.runs, 0u);
        CHECK(!hand.reader.atRest() && !hand.reader.inFrame());
        CHECK(hand.feed(string_view(frame).substr(split)) == FrameError::none);
        CHECK_EQ(hand.sink.runs, 1u);
        CHECK(hand.sink.lastRun + server == hand.sink.bufferStart + kFeedHeadroom + (client - split));
        CHECK_EQ(hand.sink.out, serverFrame(kFin | 2, payload));
      }
    }
  }
}

TEST("state and counters are right after every byte") {
  // Two fragments of one text, with a ping between them.
  const string stream = clientFrame(1, "ab") + clientFrame(kFin | 9, "p") + clientFrame(kFin, "c");
  struct State {
    bool inFrame, inMessage, atRest;
    uint64_t left, out, messages, bytes;
  };
  const State between = {false, true, false, 0, 0, 0, 2};
  std::vector<State> states(6, {false, false, false, 0, 0, 0, 0});
  states[0].atRest = true;
  states.push_back({true, true, false, 2, 2, 0, 0});
  states.push_back({true, true, false, 1, 3, 0, 1});
  states.insert(states.end(), 1 + 7 + 5, between);
  states.push_back({true, true, false, 1, 2, 0, 2});
  states.push_back({false, false, true, 0, 0, 1, 3});
  CHECK_EQ(states.size(), stream.size() + 1);
  Hand hand;
  for (size_t i = 0; i <= stream.size(); i++) {
    context = note("bytes read:", i);
    if (i > 0) CHECK(hand.feed(stream.substr(i - 1, 1)) == FrameError::none);
    CHECK_EQ(hand.reader.inFrame(), states[i].inFrame);
    CHECK_EQ(hand.reader.inMessage(), states[i].inMessage);
    CHECK_EQ(hand.reader.atRest(), states[i].atRest);
    CHECK_EQ(hand.reader.payloadLeft(), states[i].left);
    if (states[i].inFrame) CHECK_EQ(hand.reader.frameOutBytes(), states[i].out);
    CHECK_EQ(hand.reader.messages, states[i].messages);
    CHECK_EQ(hand.reader.bytes, states[i].bytes);
  }
  CHECK(hand.sink.pings == std::vector<string>{"p"});
}

TEST("control frames are whole and unmasked where they are told, and never forwarded") {
  Random random(seed);
  for (const size_t length : {0, 1, 2, 3, 124, 125}) {
    for (const uint8_t opcode : {8, 9, 10}) {
      if (opcode == 8 && length == 1) continue;
      const string payload = random.bytes(length);
      const string stream = clientFrame(kFin | opcode, payload, random.bytes(4));
      for (size_t split = 0; split <= stream.size(); split++) {
        context = note("opcode", opcode) + note(" split after", split);
        Hand hand;
        CHECK(hand.feed(string_view(stream).substr(0, split)) == FrameError::none);
        CHECK_EQ(hand.reader.atRest(), split == 0 || split == stream.size());
        if (split < stream.size()) CHECK(hand.feed(string_view(stream).substr(split)) == FrameError::none);
        CHECK_EQ(hand.sink.out, string());
        CHECK_EQ(hand.sink.pings.size(), opcode == 9 ? 1u : 0u);
        if (opcode == 9) CHECK_EQ(hand.sink.pings[0], payload);
        CHECK_EQ(hand.sink.pongs, opcode == 10 ? 1u : 0u);
        CHECK(hand.sink.closed == (opcode == 8 ? std::optional(payload) : std::nullopt));
        CHECK_EQ(hand.reader.messages + hand.reader.bytes, 0u);
      }
    }
  }
}

TEST("nothing is read after a close frame, and all before it is out") {
  Hand hand;
  const string stream = clientFrame(kFin | 1, "last", "mask") + clientFrame(kFin | 8, "\x03\xe8", "mask");
  CHECK(hand.feed(stream + clientFrame(kFin | 1, "more", "mask") + "\xff\xff\xff\xff") == FrameError::none);
  CHECK_EQ(hand.sink.out, serverFrame(kFin | 1, "last"));
  CHECK(hand.sink.closed == "\x03\xe8");
  CHECK_EQ(hand.reader.messages, 1u);
}

TEST("[R22] a boundary is told after the frame's bytes are out") {
  const string stream = clientFrame(1, "a") + clientFrame(kFin | 9, "") + clientFrame(kFin, "") +
                        clientFrame(kFin | 2, "b") + clientFrame(kFin | 9, "late");
  Hand hand;
  hand.reader.wantsBoundary = true;
  CHECK(hand.feed(stream) == FrameError::none);
  CHECK((hand.sink.boundaries == std::vector<Boundary>{{3, false}, {5, true}, {8, true}}));
  CHECK_EQ(hand.sink.pings.size(), 2u);
}

TEST("a boundary asked for once is told once") {
  struct Once : Recorder {
    FrameReader& asked;
    explicit Once(FrameReader& reader) : Recorder{reader}, asked(reader) {}
    void boundary(bool messageEnd) {
      asked.wantsBoundary = false;
      Recorder::boundary(messageEnd);
    }
  };
  FrameReader reader;
  Once sink(reader);
  string stream = sampleStream();
  char* data = stream.data();
  sink.bufferStart = data;
  sink.bufferEnd = data + stream.size();
  const string expected = parseClientStream(stream, 0).output;
  reader.wantsBoundary = true;
  CHECK(reader.feed(data, stream.size(), sink) == FrameError::none);
  CHECK((sink.boundaries == std::vector<Boundary>{{7, true}}));
  CHECK_EQ(sink.runs, 2u);
  CHECK_EQ(sink.out, expected);
}
