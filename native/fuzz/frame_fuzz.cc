// libFuzzer target: FrameReader, fed any bytes in any pieces, says what the reference says that sees them at once;
// FrameWalker, walking what came out in other pieces, knows its boundaries. A difference aborts.
#include "fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace couplet;
  const fuzz::Input input(data, size);
  // Every beginning of a short stream is compared, of a longer one as many as cost about 16 KiB of reference work.
  test::Expected expected(input.stream, input.reading, 16384);
  const std::string out = test::feedAndCompare(expected, input.pieces(input.stream.size(), 0));
  test::walkAndCompare(out, input.pieces(out.size(), 1), input.reading.ways.toServer);
  return 0;
}
