// The whole test framework: named tests, CHECKs that end the process, a seeded generator of random numbers.
// A failed check aborts, so that it also counts as a crash for the fuzzer.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace couplet::test {

// What is being tried, printed with a failure: a split, a seed, a length.
inline std::string context;

template <class T>
std::string shown(const T& value) {
  if constexpr (requires { std::string_view(value); }) {
    std::string text;
    char byte[4];
    for (const char c : std::string_view(value).substr(0, 64)) {
      snprintf(byte, sizeof byte, "%02x ", static_cast<unsigned>(static_cast<uint8_t>(c)));
      text += byte;
    }
    return text + "(" + std::to_string(std::string_view(value).size()) + " bytes)";
  } else {
    return std::to_string(static_cast<long long>(value));
  }
}

[[noreturn]] inline void fail(const char* file, int line, const char* what, const std::string& values = {}) {
  fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  if (!values.empty()) fprintf(stderr, "  %s\n", values.c_str());
  if (!context.empty()) fprintf(stderr, "  with %s\n", context.c_str());
  abort();
}

#define CHECK(condition) ((condition) ? void() : ::couplet::test::fail(__FILE__, __LINE__, #condition))

#define CHECK_EQ(actual, expected)                                                                      \
  do {                                                                                                  \
    const auto actual_ = actual; /* copies: either may be a part of something that is gone by the next line */ \
    const auto expected_ = expected;                                                                    \
    if (!(actual_ == expected_))                                                                        \
      ::couplet::test::fail(__FILE__, __LINE__, #actual " == " #expected,                               \
                            ::couplet::test::shown(actual_) + " != " + ::couplet::test::shown(expected_)); \
  } while (0)

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

#define TEST_JOIN_(a, b) a##b
#define TEST_JOIN(a, b) TEST_JOIN_(a, b)
#define TEST(name)                                                                                        \
  static void TEST_JOIN(test_, __LINE__)();                                                               \
  static const ::couplet::test::Registration TEST_JOIN(registered_, __LINE__)(name, TEST_JOIN(test_, __LINE__)); \
  static void TEST_JOIN(test_, __LINE__)()

// splitmix64: small, and the same numbers everywhere for a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // A number from 0 to limit - 1.
  size_t below(size_t limit) { return static_cast<size_t>(next() % limit); }
  template <class T>
  const T& pick(const std::vector<T>& of) {
    return of[below(of.size())];
  }
  std::string bytes(size_t length) {
    std::string text(length, '\0');
    for (char& c : text) c = static_cast<char>(next());
    return text;
  }

 private:
  uint64_t state_;
};

// The seed of this run; every random test starts from it. Set by main.
inline uint64_t seed = 0;

}  // namespace couplet::test
