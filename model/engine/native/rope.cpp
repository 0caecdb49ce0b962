// The angle of pair i at position p is p * theta^(-i / half). Logarithm, exponential, sine and
// cosine are computed here, in double and with +, -, *, / alone: C libraries differ in last bits,
// and the tables must be the same on every machine.
#include "rope.hpp"

#include <algorithm>
#include <cmath>

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

}  // namespace

void Rope::grow(size_t positions, size_t most) {
  if (positions <= positions_) return;
  positions = std::min(std::max(positions, 2 * positions_), most);
  positions_ = 0;
  cos_.grow(positions * half_);
  sin_.grow(positions * half_);
  const double log_theta = natural_log(theta_);
  for (size_t i = 0; i < half_; ++i) {
    const double exponent = -static_cast<double>(i) / static_cast<double>(half_);
    const double frequency = exponential(exponent * log_theta);
    for (size_t position = 0; position < positions; ++position) {
      const Angle angle = cos_sin(static_cast<double>(position) * frequency);
      cos_[position * half_ + i] = static_cast<float>(angle.cos);
      sin_[position * half_ + i] = static_cast<float>(angle.sin);
    }
  }
  positions_ = positions;
}

}  // namespace tritserve
