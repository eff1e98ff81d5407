// How the fuzzer's bytes are read: settings, split lengths, and a client's (or server's) stream, either as it is or as a program of
// frames. The program form reaches long, valid streams with few bytes.
//
//   byte 0      kProgram, kBoundaries, kLimit (with kLimit: bytes 1 and 2 are the limit, low byte first), and for links
//               kFromServer or kToServer (the first of them counts)
//   byte        how many split lengths follow (of these the low 6 bits count)
//   bytes       split lengths, gone through again and again; from 224: powers of two, see splitLength
//   rest        the stream or the program
#pragma once

#include <string>
#include <vector>

#include "../test/harness.h"
#include "bytes.h"

namespace couplet::fuzz {

enum Flag : uint8_t { kProgram = 1, kBoundaries = 2, kLimit = 4, kFromServer = 8, kToServer = 16 };

constexpr size_t kMostStreamBytes = 70000;  // past it no step is begun: room for one large frame and others
constexpr size_t kMostPieces = 256;  // what is left then comes at once

// One step of a program: low four bits of its first byte choose the frame's first byte, high four bits its length.
enum Step : uint8_t {
  kEmpty, kOne, kTwo, kByteLength, k125, k126, k127,
  kWordLength,   // to 4095 bytes
  kLong,         // by its next byte: 65535 or 65536 bytes, else few: long ones are slow and must be rare
  kUnfinished,   // a header alone, and nothing of the payload it declares
  kDeclared,     // 8 bytes of length, no payload: what follows is taken for it
  kPadded16,     // a short length written in 16 bits
  kPadded64,     // ... in 64 bits
  kWronglyMasked,
  kCut,          // a header without its last bytes
  kRaw,          // so many bytes as they are
};

constexpr uint8_t kLong16 = 0xa5, kLong64 = 0x5a;

constexpr uint8_t kFirstBytes[16] = {0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89,
                                     0x8a, 0x08, 0x83, 0x90, 0xc2, 0xa1, 0x0f, 0x09};

inline void runStep(Bytes& program, std::string& stream, bool fromServer) {
  using namespace couplet::test;
  const uint8_t code = program.next();
  const uint8_t first = kFirstBytes[code & 15];
  const uint8_t variant = program.next();
  std::string mask(4, '\0');
  for (size_t i = 0; i < 4; i++) mask[i] = static_cast<char>(variant * (2 * i + 1) + i);
  const auto payload = [&](size_t length) {
    std::string bytes(length, '\0');
    for (size_t i = 0; i < length; i++) bytes[i] = static_cast<char>(variant + i * 7 + (i >> 8));
    return bytes;
  };
  const auto frame = [&](size_t length, Width width = Width::shortest) {
    stream += fromServer ? serverFrame(first, payload(length), width) : clientFrame(first, payload(length), mask, width);
  };
  const auto header = [&](uint64_t length, Width width = Width::shortest) {
    return fromServer ? frameHeader(first, 0, length, width) : clientHeader(first, length, mask, width);
  };
  switch (code >> 4) {
    case kEmpty: return frame(0);
    case kOne: return frame(1);
    case kTwo: return frame(2);
    case kByteLength: return frame(program.next());
    case k125: return frame(125);
    case k126: return frame(126);
    case k127: return frame(127);
    case kWordLength: {
      const size_t low = program.next();
      return frame(low | static_cast<size_t>(program.next() & 15) << 8);
    }
    case kLong: {
      const uint8_t which = program.next();
      return frame(which == kLong16 ? 65535 : which == kLong64 ? 65536 : 128 + which);
    }
    case kUnfinished: stream += header(program.next()); return;
    case kDeclared: {
      uint64_t length = 0;
      for (int i = 0; i < 8; i++) length = length << 8 | program.next();
      stream += header(length, Width::bits64);
      return;
    }
    case kPadded16: return frame(program.next(), Width::bits16);
    case kPadded64: return frame(program.next(), Width::bits64);
    case kWronglyMasked: {
      const std::string data = payload(program.next());
      stream += fromServer ? clientFrame(first, data, mask) : serverFrame(first, data);
      return;
    }
    case kCut: {
      const Width width = variant & 1 ? Width::bits64 : Width::shortest;
      const std::string whole = header(program.next(), width);
      stream += whole.substr(0, program.next() % whole.size());
      return;
    }
    default: stream += program.take(variant); return;
  }
}

inline size_t splitLength(uint8_t code) { return code < 224 ? code : size_t{1} << (code & 15); }

struct Input {
  test::Reading reading;
  std::vector<uint8_t> splits;
  std::string stream;

  Input(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    const uint8_t flags = bytes.next();
    reading.boundaries = flags & kBoundaries;
    reading.ways.fromServer = flags & kFromServer;
    reading.ways.toServer = (flags & kToServer) != 0 && !reading.ways.fromServer;
    if (flags & kLimit) {
      const unsigned low = bytes.next();
      reading.maxMessageBytes = low | static_cast<unsigned>(bytes.next()) << 8;
    }
    for (const char code : bytes.take(bytes.next() & 63)) splits.push_back(static_cast<uint8_t>(code));
    if (!(flags & kProgram)) {
      stream = bytes.rest();
      return;
    }
    while (!bytes.empty() && stream.size() < kMostStreamBytes) runStep(bytes, stream, reading.ways.fromServer);
  }

  // Lengths of the pieces of `total` bytes, beginning with split number `start`.
  std::vector<size_t> pieces(size_t total, size_t start) const {
    std::vector<size_t> lengths;
    if (splits.empty()) return lengths;
    for (size_t at = 0; at < total && lengths.size() < kMostPieces; at += lengths.back()) {
      lengths.push_back(splitLength(splits[(start + lengths.size()) % splits.size()]));
    }
    return lengths;
  }
};

}  // namespace couplet::fuzz
