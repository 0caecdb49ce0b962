// The angle of pair i at position p is p * theta^(-i / half). Logarithm, exponential, sine and
// cosine are computed here, in double and with +, -, *, / alone: C libraries differ in last bits,
// and the tables must be the same on every machine.
#include "rope.hpp"

#include <algorithm>
#include <cmath>

#include "floats.hpp"

namespace tritserve {
namespace {

constexpr double kLn2 = 0.69314718055994530942;
// Pi / 2 in three parts; multiples of the first two are exact for counts below 2^20.
constexpr double kHalfPi1 = 1.5707963267341256, kHalfPi2 = 6.077100506303966e-11,
                 kHalfPi3 = 2.0222662487959506e-21;

double natural_log(double x) {
  int exponent;
  double m = std::frexp(x, &exponent);
  const double ratio = (m - 1.0) / (m + 1.0), square = ratio * ratio;
  double power = ratio, total = 0.0;
  for (int i = 1; i < 80; i += 2, power *= square) total += power / i;
  return 2.0 * total + exponent * kLn2;
}

double exponential(double x) {
  const double count = std::floor(x / kLn2 + 0.5);
  const double r = x - count * kLn2;
  double term = 1.0, total = 1.0;
  for (int i = 1; i < 20; ++i) {
    term *= r / i;
    total += term;
  }
  return std::ldexp(total, static_cast<int>(count));
}

struct Angle {
  double cos, sin;
};

Angle cos_sin(double angle) {
  const double count = std::floor(angle / (kHalfPi1 + kHalfPi2) + 0.5);
  const double r = ((angle - count * kHalfPi1) - count * kHalfPi2) - count * kHalfPi3;
  const double square = r * r;
  double cos = 1.0, sin = r, term = 1.0;
  for (int i = 1; i < 20; ++i) {
    term *= -square / ((2 * i - 1) * (2 * i));
    cos += term;
    sin += term * r / (2 * i + 1);
  }
  switch (static_cast<long long>(count) & 3) {
    case 1: return {-sin, cos};
    case 2: return {-cos, -sin};
    case 3: return {sin, -cos};
    default: return {cos, sin};
  }
}

// Multiplied as complex numbers: the angles add up.
Angle operator*(Angle a, Angle b) {
  return {a.cos * b.cos - a.sin * b.sin, a.sin * b.cos + a.cos * b.sin};
}

// Of larger angles the multiples of pi / 2 are not exact.
constexpr int kLowBits = 20;

// Of position * frequency, for frequencies up to 1. Positions of 2^20 and more are their low bits
// and powers of two, whose angles double by squaring: what that loses doubles as well, from
// 2^-53 to 2^-25 at position 2^48, less than a float32 shows.
Angle turned(uint64_t position, double frequency) {
  constexpr uint64_t low = (uint64_t{1} << kLowBits) - 1;
  Angle angle = cos_sin(static_cast<double>(position & low) * frequency);
  uint64_t high = position >> kLowBits;
  if (!high) return angle;
  Angle power = cos_sin(static_cast<double>(low + 1) * frequency);
  for (; high; high >>= 1, power = power * power)
    if (high & 1) angle = angle * power;
  return angle;
}

}  // namespace

Rope::Rope(double theta, size_t half) : half_(half) {
  const DefaultFloats floats;
  const double log_theta = natural_log(theta);
  for (size_t i = 0; i < half; ++i)
    frequencies_.push_back(
        exponential(-static_cast<double>(i) / static_cast<double>(half) * log_theta));
}

void Rope::grow(size_t positions, size_t most) {
  if (positions <= positions_) return;
  positions = std::min(std::max(positions, 2 * positions_), most);
  positions_ = 0;
  cos_.grow(positions * half_);
  sin_.grow(positions * half_);
  for (size_t position = 0; position < positions; ++position)
    turn(position, cos_.data() + position * half_, sin_.data() + position * half_);
  positions_ = positions;
}

void Rope::turn(uint64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < half_; ++i) {
    const Angle angle = turned(position, frequencies_[i]);
    cos[i] = static_cast<float>(angle.cos);
    sin[i] = static_cast<float>(angle.sin);
  }
}

}  // namespace tritserve
