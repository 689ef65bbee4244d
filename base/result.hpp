// Result<T>: a value or an Error. The names are those of std::expected, which replaces it when the compiler floor
// rises.
#pragma once

#include <cassert>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

namespace shunt {

// What failed, on what, and what the user can do about it. `code` is a positive errno, or 0 where none applies.
struct Error {
  int code = 0;
  std::string message;
  std::string remedy;

  // "message (remedy)", as it is shown to a user on one line.
  std::string to_string() const { return remedy.empty() ? message : message + " (" + remedy + ")"; }
};

// The one place that turns an errno (positive, or negative as libbpf returns it) into an Error.
inline Error errno_error(int code, std::string what, std::string remedy = {}) {
  if (code < 0) code = -code;
  return Error{code, std::move(what) + ": " + std::strerror(code), std::move(remedy)};
}

template <typename E>
struct BasicUnexpected {
  E error;
};
using Unexpected = BasicUnexpected<Error>;

template <typename E>
BasicUnexpected<E> unexpected(E error) {
  return {std::move(error)};
}
inline Unexpected unexpected(int code, std::string what, std::string remedy = {}) {
  return Unexpected{errno_error(code, std::move(what), std::move(remedy))};
}

// A library whose callers tell failures apart brings an error type of its own, E.
template <typename T, typename E = Error>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(BasicUnexpected<E> failure) : state_(std::in_place_index<1>, std::move(failure.error)) {}

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& value() & { return assert(has_value()), std::get<0>(state_); }
  const T& value() const& { return assert(has_value()), std::get<0>(state_); }
  T&& value() && { return assert(has_value()), std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const E& error() const { return assert(!has_value()), std::get<1>(state_); }

 private:
  std::variant<T, E> state_;
};

template <typename E>
class [[nodiscard]] Result<void, E> {
 public:
  Result() = default;
  Result(BasicUnexpected<E> failure) : error_(std::move(failure.error)), ok_(false) {}

  bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const E& error() const { return assert(!ok_), error_; }

 private:
  E error_{};
  bool ok_ = true;
};

}  // namespace shunt
