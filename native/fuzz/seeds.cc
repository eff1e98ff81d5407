// Writes the fuzzer's first inputs to the folder named: streams that reach every state, so that it starts from there.
#include <filesystem>
#include <fstream>

#include "fuzz_input.h"

using namespace couplet;
using namespace couplet::fuzz;

namespace {

std::string step(uint8_t length, uint8_t first, uint8_t variant, std::string_view more = {}) {
  for (uint8_t i = 0; i < 16; i++) {
    if (kFirstBytes[i] != first) continue;
    const char code[2] = {static_cast<char>(length << 4 | i), static_cast<char>(variant)};
    return std::string(code, 2).append(more);
  }
  abort();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s <folder>\n", argv[0]);
    return 2;
  }
  const std::string declared("\x00\x00\x00\x01\x00\x00\x00\x00", 8), topBit("\x80\0\0\0\0\0\0\1", 8);
  const std::string fragments = step(kTwo, 0x02, 5) + step(kOne, 0x89, 6) + step(kEmpty, 0x00, 7) +
                                step(kTwo, 0x8a, 8) + step(kByteLength, 0x80, 9, "\x21");
  std::vector<std::string> programs = {
      step(kOne, 0x81, 1) + step(kEmpty, 0x82, 2) + step(k125, 0x82, 3) + step(k126, 0x81, 4) + step(k127, 0x82, 5),
      fragments + fragments + step(kTwo, 0x88, 3),
      step(kPadded16, 0x82, 7, "\x05") + step(kPadded64, 0x82, 8, "\x06") + step(kPadded64, 0x89, 9, "\x7d"),
      step(kLong, 0x82, 1, "\xa5") + step(kOne, 0x81, 2),
      step(kLong, 0x82, 3, "\x5a") + step(kOne, 0x81, 4) + step(kUnfinished, 0x89, 1, "\x03"),
      step(kWordLength, 0x82, 9, "\x34\x12") + fragments,
      step(kOne, 0x81, 1) + step(kDeclared, 0x82, 2, declared) + step(kRaw, 0x81, 9, "some data"),
      step(kOne, 0x81, 1) + step(kDeclared, 0x82, 2, topBit),
      fragments + step(kTwo, 0x02, 1) + step(kOne, 0x81, 2),
      fragments + step(kOne, 0x88, 2),
      fragments + step(kEmpty, 0x88, 2) + step(kOne, 0x81, 2),
      step(kTwo, 0x81, 2) + step(kEmpty, 0x80, 2),
      fragments + step(kUnmasked, 0x81, 2, "\x03"),
      fragments + step(k126, 0x89, 2),
      fragments + step(k125, 0x8a, 2) + step(kCut, 0x82, 3, "\x05\x09"),
  };
  for (const uint8_t first : {0x08, 0x83, 0x90, 0xc2, 0xa1, 0x0f, 0x09}) {
    programs.push_back(fragments + step(kTwo, first, 4));
  }

  const std::vector<std::string> splits = {{}, "\x01", "\x03\x05\x02", "\x07\xe8", "\x40\x01\xff"};
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  size_t count = 0;
  const auto write = [&](const std::string& input) {
    std::ofstream file(folder / ("seed-" + std::to_string(count++)), std::ios::binary);
    file << input;
    if (!file.flush()) {
      fprintf(stderr, "%s: cannot write the seeds to %s\n", argv[0], folder.c_str());
      exit(1);
    }
  };
  for (const std::string& program : programs) {
    for (const std::string& split : splits) {
      // The settings differ from input to input, so that each meets several streams.
      const uint8_t settings = static_cast<uint8_t>((count * 2) & (kBoundaries | kStop | kLimit));
      std::string head(1, static_cast<char>(settings | kProgram));
      if (settings & kLimit) head += count % 3 == 0 ? std::string("\x22\x00", 2) : std::string("\xff\xff", 2);
      if (settings & kStop) head += static_cast<char>(count % 5);
      head += static_cast<char>(split.size());
      const std::string input = head + split + program;
      write(input);
      // The same stream as it is, where that is short.
      const Input read(reinterpret_cast<const uint8_t*>(input.data()), input.size());
      head[0] = static_cast<char>(settings);
      if (read.stream.size() <= 1024) write(head + split + read.stream);
    }
  }
  printf("%zu seeds in %s\n", count, folder.c_str());
}
