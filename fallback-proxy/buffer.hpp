// Bytes between two sockets: a window in memory of a fixed place while the kernel reads from it or writes into it.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>

namespace shunt::proxy {

class Buffer {
 public:
  explicit Buffer(size_t capacity) : data_(std::make_unique<char[]>(capacity)), capacity_(capacity) {}

  std::string_view bytes() const { return {data_.get() + begin_, end_ - begin_}; }
  size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  size_t capacity() const { return capacity_; }
  size_t room() const { return capacity_ - end_; }  // behind the last byte, without moving any
  char* tail() { return data_.get() + end_; }

  void consume(size_t bytes) { begin_ += bytes; }
  void produced(size_t bytes) { end_ += bytes; }
  void clear() { begin_ = end_ = 0; }

  // Must fit into room().
  void append(std::string_view text) {
    if (!text.empty()) std::memcpy(tail(), text.data(), text.size());
    end_ += text.size();
  }

  // Moves the bytes to the beginning. Not while the kernel has a part of it.
  void compact() {
    if (begin_ == 0) return;
    std::memmove(data_.get(), data_.get() + begin_, size());
    end_ -= begin_;
    begin_ = 0;
  }

  // As many bytes as stand here and `more` will fit. Not while the kernel has a part of it.
  void reserve(size_t more) {
    compact();
    if (room() >= more) return;
    resize(std::max(capacity_ * 2, size() + more));
  }

  void shrink(size_t capacity) {
    if (capacity_ > capacity && empty()) resize(capacity);
  }

 private:
  void resize(size_t capacity) {
    auto larger = std::make_unique<char[]>(capacity);
    const size_t bytes = size();
    std::memcpy(larger.get(), data_.get() + begin_, bytes);
    data_ = std::move(larger);
    capacity_ = capacity;
    begin_ = 0;
    end_ = bytes;
  }

  std::unique_ptr<char[]> data_;
  size_t capacity_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace shunt::proxy
