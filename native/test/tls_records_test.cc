// TlsRecords: where the last whole record of a read begins, for any split of the stream.
#include "../tls_records.h"

#include "check.h"

using namespace couplet;
using namespace couplet::test;
using std::string;

namespace {

string record(uint8_t type, size_t length) {
  string bytes = {static_cast<char>(type), 3, 3, static_cast<char>(length >> 8), static_cast<char>(length)};
  return bytes + string(length, 'x');
}

TEST("[R24] the last whole TLS record of a read is found") {
  const string first = record(23, 1000), second = record(23, 16384), alert = record(23, 19);
  TlsRecords records;
  const string all = first + second + alert;
  CHECK_EQ(records.follow(all.data(), all.size()), first.size() + second.size());
  CHECK_EQ(records.follow(alert.data(), alert.size()), size_t{0});
  // A record that is not whole yet is not the last one.
  const string partial = first + alert + second.substr(0, 100);
  CHECK_EQ(records.follow(partial.data(), partial.size()), first.size());
}

TEST("[R24] TLS records are followed over any two splits of the stream") {
  const string stream = record(22, 40) + record(23, 300) + record(23, 1) + record(21, 19);
  const size_t starts[] = {0, 45, 350, 356};
  const size_t ends[] = {45, 350, 356, 380};
  for (size_t a = 1; a < stream.size(); a++) {
    for (size_t b = a; b < stream.size(); b += 3) {
      context = "splits " + std::to_string(a) + ", " + std::to_string(b);
      TlsRecords records;
      const size_t cuts[] = {0, a, b, stream.size()};
      for (int i = 0; i < 3; i++) {
        size_t expected = 0;
        for (int r = 0; r < 4; r++) {
          if (ends[r] > cuts[i] && ends[r] <= cuts[i + 1]) expected = starts[r] > cuts[i] ? starts[r] - cuts[i] : 0;
        }
        CHECK_EQ(records.follow(stream.data() + cuts[i], cuts[i + 1] - cuts[i]), expected);
      }
    }
  }
  context.clear();
}

TEST("what is no TLS stream is not split") {
  TlsRecords records;
  const string noise = string("GET / HTTP/1.1\r\n\r\n") + record(23, 10) + record(23, 10);
  CHECK_EQ(records.follow(noise.data(), noise.size()), size_t{0});
  const string good = record(23, 10) + record(23, 10);
  CHECK_EQ(records.follow(good.data(), good.size()), size_t{0});
}

}  // namespace
