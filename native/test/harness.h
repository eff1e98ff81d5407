// Feeds FrameReader a stream in given pieces and holds everything it says to the reference, after every piece.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "reference.h"

namespace couplet::test {

struct Reading {
  uint64_t maxMessageBytes = 0;
  bool boundaries = false;
  Ways ways = {};
};

// What the reference says about each beginning of a stream, reckoned when asked for.
class Expected {
 public:
  // `workBytes`: how many bytes the reference may read for beginnings of the stream; then only ends are compared.
  Expected(std::string_view stream, const Reading& reading, size_t workBytes = SIZE_MAX)
      : stream_(stream), reading_(reading), workBytes_(workBytes) {}

  const Parsed* at(size_t length, bool needed) {
    std::unique_ptr<Parsed>& slot = known_[length];  // not known: null
    if (!slot) {
      if (!needed && length > workBytes_) return nullptr;
      workBytes_ -= length < workBytes_ ? length : workBytes_;
      slot = std::make_unique<Parsed>(parseClientStream(stream_.substr(0, length), reading_.maxMessageBytes,
                                                        reading_.ways));
    }
    return slot.get();
  }
  std::string_view stream() const { return stream_; }
  const Reading& reading() const { return reading_; }

 private:
  std::string_view stream_;
  Reading reading_;
  size_t workBytes_;
  std::map<size_t, std::unique_ptr<Parsed>> known_;
};

// Everything a FrameReader calls back. Spoils each run after it was handed on, which is the owner's right.
struct Recorder {
  explicit Recorder(const FrameReader& of) : reader(of) {}

  const FrameReader& reader;
  const char* bufferStart = nullptr;
  const char* bufferEnd = nullptr;
  size_t runs = 0;
  const char* lastRun = nullptr;
  std::string out;
  ServerStream tail{reader.toServer};
  std::vector<std::string> pings;
  size_t pongs = 0;
  std::optional<std::string> closed;
  std::vector<Boundary> boundaries;
  std::vector<Message> messages;  // put together as the relay's recording does it
  bool inPieces = false;
  uint64_t left = 0;

  void output(char* run, size_t length) {
    CHECK(!closed);
    CHECK(length != 0);
    CHECK(run >= bufferStart && length <= static_cast<size_t>(bufferEnd - run));
    runs++;
    lastRun = run;
    out.append(run, length);
    tail.read({run, length});
    memset(run, 0xee, length);
    // What flow.cc notes about the mate's stream must be right at every run's end.
    CHECK_EQ(reader.inFrame(), tail.inFrame);
    CHECK_EQ(reader.inMessage(), tail.inMessage);
    CHECK_EQ(reader.payloadLeft(), tail.payloadLeft);
    if (tail.inFrame) CHECK_EQ(reader.frameOutBytes(), tail.frameBytes);
  }
  void ping(const char* payload, size_t length) { pings.emplace_back(payload, length); }
  void pong() { pongs++; }
  void close(const char* payload, size_t length) {
    CHECK(!closed);
    closed.emplace(payload, length);
  }
  void boundary(bool messageEnd) { boundaries.push_back({out.size(), messageEnd}); }
  void payload(const char* data, size_t length, uint64_t leftNow, bool isBinary, bool fin) {
    CHECK(!closed);
    CHECK(data >= bufferStart && length <= static_cast<size_t>(bufferEnd - data));
    CHECK(left == 0 || left == length + leftNow);
    left = leftNow;
    if (!inPieces) messages.push_back({isBinary, {}});
    messages.back().data.append(data, length);
    inPieces = !fin || leftNow != 0;
  }
};

// Gives the reader a piece in a heap buffer of exactly the promised size, so that ASan sees a byte too far.
inline FrameError feedPiece(FrameReader& reader, Recorder& sink, std::string_view piece) {
  const std::unique_ptr<char[]> buffer(new char[kFeedHeadroom + piece.size()]);
  memset(buffer.get(), 0xaa, kFeedHeadroom);
  if (!piece.empty()) memcpy(buffer.get() + kFeedHeadroom, piece.data(), piece.size());
  sink.bufferStart = buffer.get();
  sink.bufferEnd = buffer.get() + kFeedHeadroom + piece.size();
  return reader.feed(buffer.get() + kFeedHeadroom, piece.size(), sink);
}

inline void compare(const FrameReader& reader, const Recorder& sink, FrameError error, const Parsed& expected,
                    bool boundaries) {
  CHECK(error == expected.error);
  CHECK_EQ(sink.out.size(), expected.output.size());
  CHECK_EQ(sink.pings.size(), expected.pings.size());
  CHECK_EQ(sink.pongs, expected.pongs);
  CHECK_EQ(sink.closed.has_value(), expected.close.has_value());
  if (boundaries) {
    CHECK(sink.boundaries == expected.boundaries);
  } else {
    CHECK(sink.boundaries.empty());
  }
  CHECK_EQ(reader.messages, expected.messages);
  CHECK_EQ(reader.bytes, expected.bytes);
  if (error != FrameError::none) return;  // what else the reader says then is of no meaning
  CHECK_EQ(reader.inFrame(), expected.inFrame);
  CHECK_EQ(reader.inMessage(), expected.inMessage);
  CHECK_EQ(reader.atRest(), expected.atRest);
  CHECK_EQ(reader.payloadLeft(), expected.payloadLeft);
  if (expected.inFrame) CHECK_EQ(reader.frameOutBytes(), expected.frameOutBytes);
}

// Feeds the stream in pieces of the given lengths (what they leave over: in one last piece) up to its end, an error,
// or a close; returns what came out.
inline std::string feedAndCompare(Expected& expected, const std::vector<size_t>& lengths) {
  const std::string_view stream = expected.stream();
  const Reading& reading = expected.reading();
  FrameReader reader;
  reader.maxMessageBytes = reading.maxMessageBytes;
  reader.wantsBoundary = reading.boundaries;
  reader.fromServer = reading.ways.fromServer;
  reader.toServer = reading.ways.toServer;
  Recorder sink(reader);
  size_t at = 0;
  for (size_t i = 0;; i++) {
    const size_t left = stream.size() - at;
    const size_t length = i < lengths.size() && lengths[i] < left ? lengths[i] : left;
    const FrameError error = feedPiece(reader, sink, stream.substr(at, length));
    at += length;
    const bool last = error != FrameError::none || sink.closed || at == stream.size();
    if (const Parsed* parsed = expected.at(at, last)) compare(reader, sink, error, *parsed, reading.boundaries);
    if (last) break;
  }
  const Parsed& parsed = *expected.at(at, true);
  CHECK_EQ(sink.out, parsed.output);
  CHECK(sink.pings == parsed.pings);
  CHECK(sink.closed == parsed.close);
  // A frame of which no byte has come was not told of yet.
  std::vector<Message> begun = parsed.payload;
  if (begun.size() == sink.messages.size() + 1 && parsed.inFrame && begun.back().data.empty()) begun.pop_back();
  CHECK(sink.messages == begun);
  return sink.out;
}

inline std::string feedAndCompare(std::string_view stream, const std::vector<size_t>& lengths = {},
                                  const Reading& reading = {}) {
  Expected expected(stream, reading);
  return feedAndCompare(expected, lengths);
}

// Walks the relay's frames in pieces of the given lengths (what they leave over: in one last piece), plainly and stopping at
// every boundary.
inline void walkAndCompare(std::string_view stream, const std::vector<size_t>& lengths, bool toServer = false) {
  ServerStream reference(toServer);
  reference.read(stream);
  const std::vector<size_t>& ends = reference.ends;
  const auto isBoundary = [&](size_t at) { return at == 0 || std::binary_search(ends.begin(), ends.end(), at); };
  FrameWalker plain, stopping;
  CHECK(plain.atBoundary());
  size_t at = 0;
  for (size_t i = 0; at < stream.size(); i++) {
    const size_t left = stream.size() - at;
    const size_t length = i < lengths.size() && lengths[i] < left ? lengths[i] : left;
    const std::unique_ptr<char[]> piece(new char[length]);
    if (length != 0) memcpy(piece.get(), stream.data() + at, length);
    CHECK_EQ(plain.walk(piece.get(), length), length);
    CHECK_EQ(plain.atBoundary(), isBoundary(at + length));
    for (size_t done = 0; done < length;) {
      const auto next = std::upper_bound(ends.begin(), ends.end(), at + done);
      const size_t wanted = next == ends.end() || *next > at + length ? length - done : *next - at - done;
      CHECK_EQ(stopping.walk(piece.get() + done, length - done, true), wanted);
      done += wanted;
      CHECK_EQ(stopping.atBoundary(), isBoundary(at + done));
    }
    at += length;
  }
}

}  // namespace couplet::test
