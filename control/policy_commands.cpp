#include <control/documents.hpp>
#include <control/policy_commands.hpp>
#include <cstdio>

namespace shunt {
namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

Json problems_document(const std::vector<Problem>& problems) {
  Json list = Json::array();
  for (const Problem& problem : problems) {
    list.push_back({{"file", problem.file},
                    {"line", problem.line},
                    {"column", problem.column},
                    {"message", problem.message},
                    {"remedy", problem.remedy}});
  }
  return list;
}

ExitCode refuse(const Error& error, bool json) {
  if (json) {
    print(dump(Json{{"error", error.message}, {"remedy", error.remedy}}, 2) + "\n");
  } else {
    std::fprintf(stderr, "shunt: %s\n", error.to_string().c_str());
  }
  return ExitCode::usage;
}

}  // namespace

ExitCode policy_problems(const std::vector<Problem>& problems, bool json) {
  if (json) print(dump(Json{{"valid", false}, {"problems", problems_document(problems)}}, 2) + "\n");
  if (!json) {
    for (const Problem& problem : problems) std::fprintf(stderr, "%s\n", problem.to_string().c_str());
  }
  return ExitCode::usage;
}

ExitCode policy_validate(const std::vector<std::string>& files, bool json) {
  policy::Loader loader;
  const policy::Loaded loaded = loader.load_files(files);
  policy::Compiler compiler;
  std::string summary;
  if (loaded.ok()) summary = policy::summary(loaded, compiler.compile(loaded.model));
  if (json) {
    print(dump(Json{{"valid", loaded.ok()},
                    {"files", loaded.files},
                    {"documents", loaded.documents},
                    {"problems", problems_document(loaded.problems)},
                    {"notes", problems_document(loaded.notes)}},
               2) +
          "\n");
    return loaded.ok() ? ExitCode::ok : ExitCode::usage;
  }
  for (const Problem& problem : loaded.problems) std::fprintf(stderr, "%s\n", problem.to_string().c_str());
  for (const Problem& note : loaded.notes) std::fprintf(stderr, "note: %s\n", note.to_string().c_str());
  if (loaded.ok()) print("valid: " + summary);
  return loaded.ok() ? ExitCode::ok : ExitCode::usage;
}

Result<void> add_headers(const std::vector<std::string>& headers, std::optional<policy::HttpRequest>& request) {
  for (const std::string& header : headers) {
    const auto parsed = policy::parse_header(header);
    if (!parsed || !request)
      return unexpected(Error{EINVAL, "the header '" + header + "' belongs to no request",
                              "give METHOD and PATH, and 'Name: value'"});
    request->headers.push_back(*parsed);
  }
  return {};
}

ExitCode policy_explain(const std::vector<std::string>& files, policy::Question question,
                        const std::vector<std::string>& headers, bool json) {
  if (auto added = add_headers(headers, question.request); !added) return refuse(added.error(), json);
  policy::Loader loader;
  const policy::Loaded loaded = loader.load_files(files);
  for (const Problem& problem : loaded.problems) std::fprintf(stderr, "%s\n", problem.to_string().c_str());
  if (!loaded.ok()) return refuse({EINVAL, "the documents have errors", "repair them first"}, json);
  policy::Compiler compiler;
  const auto answer = policy::explain(loaded.model, compiler.compile(loaded.model), question);
  if (!answer) return refuse(answer.error(), json);
  print(json ? policy::render_json(*answer) : policy::render_text(*answer));
  if (answer->verdict == SH_POLICY_DENY) return ExitCode::denied;
  return answer->verdict == SH_POLICY_PUNT ? ExitCode::punted : ExitCode::ok;
}

}  // namespace shunt
