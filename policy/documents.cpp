#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <base/printable.hpp>
#include <base/unique_fd.hpp>
#include <filesystem>
#include <future>
#include <policy/document_reader.hpp>
#include <policy/documents.hpp>
#include <policy/edited_document.hpp>
#include <set>
#include <thread>

namespace shunt::policy {
namespace {

namespace fs = std::filesystem;

struct Text {
  std::string text;
  int lines_before = 0;
};

// A line that begins with --- ends a document wherever it stands, within block scalars too (YAML 1.2, 9.1.2).
std::vector<Text> split_documents(const std::string& text) {
  std::vector<Text> parts;
  size_t begin = 0;
  int line = 0;
  int first_line = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const bool marker = text.compare(at, 3, "---") == 0 && (at + 3 == text.size() || std::isspace(text[at + 3]));
    if (marker && at > begin) {
      parts.push_back({text.substr(begin, at - begin), first_line});
      begin = at;
      first_line = line;
    }
    at = end;
    line++;
  }
  if (begin < text.size()) parts.push_back({text.substr(begin), first_line});
  return parts;
}

// A pipe is not waited for.
Result<std::string> read_text(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info = {};
  if (!fd || fstat(fd.get(), &info) != 0) return unexpected(errno, "cannot read it");
  if (!S_ISREG(info.st_mode)) return invalid("this is not a file", "name files, or folders with them");
  std::string text;
  const size_t expected = std::min(static_cast<size_t>(info.st_size), kFileBytesMax);
  for (size_t at = 0; at <= kFileBytesMax;) {
    text.resize(std::max(expected, at) + 1);
    const ssize_t count = ::read(fd.get(), text.data() + at, text.size() - at);
    if (count < 0 && errno != EINTR) return unexpected(errno, "cannot read it");
    const size_t more = static_cast<size_t>(std::max(count, ssize_t{0}));
    // There was room for a byte more than it has.
    const bool whole =
        count == 0 || (count > 0 && at + more == static_cast<size_t>(info.st_size) && at + more < text.size());
    at += more;
    if (whole) {
      text.resize(at);
      return text;
    }
  }
  return invalid("a file of more than 64 MiB", "split it");
}

// Of many files each CPU reads a part: what takes time is to open them.
std::vector<std::optional<Result<std::string>>> read_texts(const std::vector<std::string>& files) {
  constexpr size_t kFilesOfPart = 128;
  constexpr size_t kPartsMax = 8;
  const size_t cpus = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kPartsMax);
  const size_t parts = std::min(cpus, files.size() / kFilesOfPart + 1);
  std::vector<std::optional<Result<std::string>>> texts(files.size());
  const auto read_part = [&](size_t part) {
    for (size_t i = files.size() * part / parts; i < files.size() * (part + 1) / parts; i++)
      texts[i] = read_text(files[i]);
  };
  std::vector<std::future<void>> others;
  for (size_t part = 1; part < parts; part++) others.push_back(std::async(std::launch::async, read_part, part));
  read_part(0);
  for (std::future<void>& other : others) other.get();
  return texts;
}

std::vector<std::string> files_of(const std::string& folder, std::vector<Problem>& problems) {
  std::vector<std::string> files;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    const std::string extension = it->path().extension();
    if (extension == ".yaml" || extension == ".yml" || extension == ".json") files.push_back(it->path());
  }
  std::sort(files.begin(), files.end());
  if (code) problems.push_back({folder, 0, 0, "cannot read the folder: " + code.message(), {}});
  if (!code && files.empty()) {
    problems.push_back({folder, 0, 0, "no documents in this folder", "they end in .yaml, .yml or .json"});
  }
  return files;
}

}  // namespace

std::vector<TextSource> read_files(const std::vector<std::string>& paths, std::vector<Problem>& problems) {
  std::vector<TextSource> sources;
  for (const std::string& path : paths) {
    std::error_code code;
    const std::vector<std::string> files =
        fs::is_directory(path, code) ? files_of(path, problems) : std::vector<std::string>{path};
    std::vector<std::optional<Result<std::string>>> texts = read_texts(files);
    for (size_t i = 0; i < files.size(); i++) {
      const std::string& file = files[i];
      Result<std::string>& text = *texts[i];
      if (!text) problems.push_back({file, 0, 0, text.error().message, text.error().remedy});
      if (text) sources.push_back({file, std::move(*text)});
    }
  }
  return sources;
}

Loaded Loader::load_files(const std::vector<std::string>& paths) {
  std::vector<Problem> unreadable;
  Loaded loaded = load(read_files(paths, unreadable));
  loaded.problems.insert(loaded.problems.begin(), unreadable.begin(), unreadable.end());
  return loaded;
}

Loaded Loader::load(const std::vector<TextSource>& sources) {
  Loaded loaded;
  titles_.clear();
  namespaces_.clear();
  request_rules_ = 0;
  auto before = std::exchange(files_, {});
  for (const TextSource& source : sources) {
    if (loaded.files.size() == kFilesMax) {
      loaded.problems.push_back({source.name, 0, 0, "more than 10,000 files", "put several documents into one"});
      break;
    }
    loaded.files.push_back(source.name);
    const auto file = before.find(source.name);
    load_source(source, file == before.end() ? nullptr : &file->second, loaded);
  }
  finish(loaded);
  before.clear();
  std::erase_if(known_, [](const auto& item) { return item.second.use_count() == 1; });
  return loaded;
}

bool Loader::is_text_of(const std::vector<Part>& parts, const std::string& text) {
  size_t at = 0;
  for (const Part& part : parts) {
    if (text.compare(at, part.kept->text.size(), part.kept->text) != 0) return false;
    at += part.kept->text.size();
  }
  return at == text.size();
}

void Loader::load_source(const TextSource& source, std::vector<Part>* before, Loaded& loaded) {
  if (source.text.size() > kFileBytesMax) {
    loaded.problems.push_back({source.name, 0, 0, "a file of more than 64 MiB", "split it"});
    return;
  }
  std::vector<Part> parts;
  if (before != nullptr && is_text_of(*before, source.text)) {
    parts = std::move(*before);
    for (const Part& part : parts) add(part.kept->document, source.name, part.lines_before, loaded);
  } else {
    for (Text& text : split_documents(source.text)) {
      const size_t index = parts.size();
      const Kept* at_this_place = before != nullptr && index < before->size() ? (*before)[index].kept.get() : nullptr;
      auto kept = document(source.name, std::move(text.text), text.lines_before, at_this_place, loaded);
      if (!kept) continue;
      add(kept->document, source.name, text.lines_before, loaded);
      parts.push_back({std::move(kept), text.lines_before});
    }
  }
  files_.insert_or_assign(source.name, std::move(parts));
}

// Null: it has problems.
std::shared_ptr<const Loader::Kept> Loader::document(const std::string& file, std::string text, int lines_before,
                                                     const Kept* before, Loaded& loaded) {
  const auto known = known_.find(text);
  if (known != known_.end()) return known->second;
  std::optional<Document> document;
  if (before != nullptr) document = edited_document(before->text, before->document, text);
  if (!document) document = read(file, text, lines_before, loaded);
  if (!document) return nullptr;
  const auto kept = std::make_shared<const Kept>(Kept{std::move(text), std::move(*document)});
  known_.emplace(kept->text, kept);
  return kept;
}

std::optional<Document> Loader::read(const std::string& file, const std::string& text, int lines_before,
                                     Loaded& loaded) {
  Document document;
  YamlReader yaml(loaded.problems);
  DocumentReader reader(yaml, document);
  bool any = false;
  yaml.part({file, text}, lines_before, [&](const YAML::Node& node) {
    any = true;
    reader.read(node);
  });
  if (yaml.problems_found() != 0) return std::nullopt;
  if (!any) document.titles.clear();
  return document;
}

void Loader::add(const Document& document, const std::string& file, int lines_before, Loaded& loaded) {
  for (const auto& [title, place] : document.titles) {
    const std::string at = file + ":" + std::to_string(lines_before + place.line);
    const auto [other, fresh] = titles_.emplace(title, at);
    if (!fresh) {
      loaded.problems.push_back({file, lines_before + place.line, place.column, title + " is here twice",
                                 "the other stands at " + printable(other->second)});
    }
  }
  loaded.documents += document.titles.size();
  request_rules_ += document.request_rules;
  for (const auto& policy : document.policies) loaded.model.policies.push_back({policy, file, lines_before});
  loaded.model.workloads.insert(loaded.model.workloads.end(), document.workloads.begin(), document.workloads.end());
  loaded.model.services.insert(loaded.model.services.end(), document.services.begin(), document.services.end());
  for (const NamespaceLabels& entry : document.namespaces) namespaces_[entry.name] = entry.labels;
  for (Problem note : document.notes) {
    note.file = file;
    note.line += lines_before;
    loaded.notes.push_back(std::move(note));
  }
}

void Loader::finish(Loaded& loaded) {
  if (request_rules_ > kRequestRulesMax) {
    loaded.problems.push_back(
        {loaded.files.front(), 0, 0, "more than 1,000,000 rules for requests in all", "write fewer"});
  }
  for (Workload& workload : loaded.model.workloads) {
    workload.labels[kNamespaceLabel] = workload.name_space;
    const std::string prefix = kNamespaceLabelsPrefix;
    workload.labels[prefix + kNamespaceNameLabel] = workload.name_space;
    for (const auto& [key, value] : namespaces_[workload.name_space]) workload.labels[prefix + key] = value;
  }
}

}  // namespace shunt::policy
