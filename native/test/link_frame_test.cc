// Frames of links: from a server, unmasked, and to one, masked with zeros.
#include "harness.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using std::string_view;

namespace {

const std::vector<size_t> kLengths = {0, 1, 125, 126, 127, 65535, 65536, 200000};

// sampleStream() as a server sends it.
string serverStream() {
  Random random(11);
  return serverFrame(kFin | 1, "Hello") + serverFrame(kFin | 2, "") + serverFrame(2, random.bytes(7), Width::bits64) +
         serverFrame(kFin | 9, "ping") + serverFrame(0, "") + serverFrame(kFin | 10, "") +
         serverFrame(kFin | 0, random.bytes(5), Width::bits16) + serverFrame(kFin | 1, random.bytes(130)) +
         serverFrame(kFin | 8, "\x03\xe8 bye");
}

void everySplit(const string& stream, Ways ways) {
  for (const bool boundaries : {false, true}) {
    Expected expected(stream, {.boundaries = boundaries, .ways = ways});
    for (size_t first = 0; first <= stream.size(); first++) {
      for (size_t second = 0; first + second <= stream.size(); second++) {
        context = "split after " + std::to_string(first) + " and " + std::to_string(second) + " bytes more";
        const string out = feedAndCompare(expected, {first, second});
        walkAndCompare(out, {first, second}, ways.toServer);
      }
    }
    feedAndCompare(expected, std::vector<size_t>(stream.size(), 1));
  }
  context.clear();
}

}  // namespace

TEST("[K3] a frame for a server has the mask bit, a mask of zeros and its payload as it is") {
  FrameReader reader;
  reader.toServer = true;
  Recorder sink(reader);
  CHECK(feedPiece(reader, sink, string_view("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", 11)) == FrameError::none);
  CHECK_EQ(sink.out, string_view("\x81\x85\0\0\0\0Hello", 11));
  CHECK(sink.lastRun == sink.bufferStart + kFeedHeadroom);  // nothing moves
  char header[kMaxClientHeader];
  CHECK_EQ(string_view(header, writeHeader(header, 0x8a, 3, true)), string_view("\x8a\x83\0\0\0\0", 6));
  CHECK_EQ(string_view(header, writeHeader(header, 0x82, 0x1234, true)), string_view("\x82\xfe\x12\x34\0\0\0\0", 8));
  CHECK_EQ(string_view(header, writeHeader(header, 0x82, 0x123456, true)),
           string_view("\x82\xff\0\0\0\0\0\x12\x34\x56\0\0\0\0", 14));
  CHECK_EQ(string_view(header, writeHeader(header, 0x82, 5, false)), string_view("\x82\x05", 2));
}

TEST("[K3] every length goes to a server and comes from one with its type and payload, however it is split") {
  Random random(seed);
  for (const size_t length : kLengths) {
    for (const Width width : {Width::shortest, Width::bits16, Width::bits64}) {
      context = "payload of " + std::to_string(length);
      const string payload = random.bytes(length);
      const string fromClient = clientFrame(kFin | 2, payload, random.bytes(4), width);
      const string fromServer = serverFrame(kFin | 2, payload, width);
      const string toServer = clientHeader(kFin | 2, length, kZeroMask) + payload;
      for (const size_t split : {size_t{1}, size_t{2}, size_t{3}, size_t{9}, size_t{13}, size_t{14}, 14 + length / 2}) {
        CHECK_EQ(feedAndCompare(fromClient, {split, 1}, {.ways = {.toServer = true}}), toServer);
        CHECK_EQ(feedAndCompare(fromServer, {split, 1}, {.ways = {.fromServer = true}}),
                 serverFrame(kFin | 2, payload));
        // What the one server's link sends, the other one's reads.
        CHECK_EQ(feedAndCompare(toServer, {split, 1}), serverFrame(kFin | 2, payload));
      }
      for (const size_t piece : {1000, 65536}) {
        walkAndCompare(toServer + toServer, std::vector<size_t>(toServer.size() / piece, piece), true);
      }
    }
  }
  context.clear();
}

TEST("[K3] a stream to a server, and one from a server, come out the same for every pair of splits") {
  everySplit(sampleStream(), {.toServer = true});
  everySplit(serverStream(), {.fromServer = true});
}

TEST("[K3] a masked frame of a server is refused at its second byte, and so is a plain one of a client") {
  for (const uint8_t opcode : {1, 2, 8, 9, 10}) {
    for (const bool fromServer : {false, true}) {
      const string good = fromServer ? serverFrame(kFin | 2, "good") : clientFrame(kFin | 2, "good");
      const string bad = fromServer ? clientFrame(kFin | opcode, "bad") : serverFrame(kFin | opcode, "bad");
      const Reading reading = {.ways = {.fromServer = fromServer}};
      CHECK_EQ(feedAndCompare(good + bad, {}, reading), serverFrame(kFin | 2, "good"));
      CHECK(parseClientStream(good + bad, 0, reading.ways).error == FrameError::protocol);
      for (size_t split = 0; split <= good.size() + 2; split++) feedAndCompare(good + bad, {split, 1, 1}, reading);
    }
  }
}

TEST("[K3] messages of a server are held to the limit of messages") {
  const string six = serverFrame(1, "sixsix");
  const Reading reading = {.maxMessageBytes = 10, .ways = {.fromServer = true}};
  CHECK_EQ(feedAndCompare(six + serverFrame(kFin, "four"), {}, reading), six + serverFrame(kFin, "four"));
  CHECK_EQ(feedAndCompare(six + serverFrame(kFin, "fives"), {}, reading), six);
}
