//! A conversation as the text that a model was trained on: the chat template of the model's files, in the language of Jinja.

use std::path::Path;

use minijinja::{Environment, Error, ErrorKind, Value, context, value::Kwargs};
use serde_json::{Value as Json, ser::Formatter};

use crate::LoadError;

/// The file that has the template or names it, and the special tokens.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The file that newer models have the template in.
pub const TEMPLATE: &str = "chat_template.jinja";

const NAME: &str = "chat";

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Texts of the special tokens that templates ask for, by the names that they use.
    tokens: Vec<(String, String)>,
    /// Whether the template refuses instructions of their own, so that they go before the question.
    without_system: bool,
}

impl ChatTemplate {
    /// Reads the template of a folder. `built_in` is one that the weights' file brings; a file of its own comes before it.
    ///
    /// # Errors
    /// [`LoadError`] where there is none, or none that can be rendered.
    pub fn read(folder: &Path, built_in: Option<&str>) -> Result<Self, LoadError> {
        let config_path = folder.join(TOKENIZER_CONFIG);
        let config: Json = match read_if_there(&config_path)? {
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| LoadError::invalid(&config_path, error))?
            }
            None => Json::Null,
        };
        let path = folder.join(TEMPLATE);
        let (source, from) = if let Some(text) = read_if_there(&path)? {
            (text, path)
        } else if let Some(text) = named_template(&config) {
            (text, config_path)
        } else if let Some(text) = built_in {
            (text.to_owned(), folder.to_owned())
        } else {
            let reason = format!(
                "it has no chat template ({TEMPLATE}, or chat_template in {TOKENIZER_CONFIG}); a model that was made for conversation is needed"
            );
            return Err(LoadError::unsupported(folder, reason));
        };
        Self::new(source, special_tokens(&config)).map_err(|error| LoadError::invalid(&from, reason(&error)))
    }

    /// A template from its text, with the texts of the special tokens by the names that templates use (`bos_token`).
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn new(source: String, tokens: Vec<(String, String)>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source)?;
        let mut template = Self { environment, tokens, without_system: false };
        if template.render("a", "b").is_err() {
            template.without_system = true;
            template.render("a", "b")?;
        }
        Ok(template)
    }

    /// Takes these texts of special tokens where the model's files named none.
    pub(crate) fn set_tokens(&mut self, tokens: impl Iterator<Item = (String, String)>) {
        if self.tokens.is_empty() {
            self.tokens.extend(tokens);
        }
    }

    /// The text of a special token, by the name that templates use.
    pub(crate) fn token(&self, name: &str) -> Option<&str> {
        self.tokens.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// The text of a conversation that has instructions and a question, up to where the answer begins.
    ///
    /// # Errors
    /// What the template objects to.
    pub fn render(&self, system: &str, user: &str) -> Result<String, Error> {
        let message = |role: &str, content: &str| context! { role, content };
        let messages = match (system.is_empty(), self.without_system) {
            (true, _) => vec![message("user", user)],
            (false, true) => vec![message("user", &format!("{system}\n\n{user}"))],
            (false, false) => vec![message("system", system), message("user", user)],
        };
        let tokens: Value = self.tokens.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let values = context! {
            messages,
            add_generation_prompt => true,
            tools => (),
            documents => (),
            // Models that can think aloud first are asked not to: an answer is what is shown and cited.
            enable_thinking => false,
            ..tokens
        };
        self.environment.get_template(NAME)?.render(values)
    }
}

/// An error of a template in one line, with what it was caused by.
pub(crate) fn reason(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn read_if_there(path: &Path) -> Result<Option<String>, LoadError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read { path: path.to_owned(), source }),
    }
}

/// The template in a tokeniser's configuration: one, or the one named `default` of several.
fn named_template(config: &Json) -> Option<String> {
    let several = |list: &Vec<Json>| {
        let found = list.iter().find(|one| one.get("name").and_then(Json::as_str) == Some("default"))?;
        found.get("template")?.as_str().map(str::to_owned)
    };
    match config.get("chat_template")? {
        Json::String(text) => Some(text.clone()),
        Json::Array(list) => several(list),
        _ => None,
    }
}

/// The texts of `bos_token`, `eos_token` and the like: a string each, or an object with more about it.
fn special_tokens(config: &Json) -> Vec<(String, String)> {
    let entries = config.as_object().into_iter().flatten();
    entries
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

/// JSON as Python writes it, which is what templates were tried with.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "a value is no JSON").with_source(error)
    };
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            serde::Serialize::serialize(
                value,
                &mut serde_json::Serializer::with_formatter(&mut bytes, formatter),
            )
        }
        None => serde::Serialize::serialize(
            value,
            &mut serde_json::Serializer::with_formatter(&mut bytes, Spaced),
        ),
    };
    written.map_err(failed)?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&bytes).into_owned()))
}

/// A space behind commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_template_is_found_in_each_of_its_places() {
        let template =
            "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content.strip() }};{% endfor %}";
        let config =
            |template: Json| json!({"bos_token": {"content": "<s>"}, "chat_template": template}).to_string();
        let several =
            json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]);
        for files in [
            vec![(TOKENIZER_CONFIG, config(json!(template)))],
            vec![(TOKENIZER_CONFIG, config(several))],
            vec![(TOKENIZER_CONFIG, config(json!("x"))), (TEMPLATE, template.to_owned())],
        ] {
            let folder = folder(&files);
            let chat = ChatTemplate::read(folder.path(), Some("y")).unwrap();
            assert_eq!(chat.render("be kind", " who? ").unwrap(), "<s>system:be kind;user:who?;");
        }
        let bare = folder(&[]);
        let chat = ChatTemplate::read(bare.path(), Some("built in")).unwrap();
        assert_eq!(chat.render("", "x").unwrap(), "built in");
        let error = ChatTemplate::read(bare.path(), None).unwrap_err().to_string();
        assert!(error.contains("no chat template"), "{error}");
        let broken = folder(&[(TEMPLATE, "{% for %}".to_owned())]);
        let error = ChatTemplate::read(broken.path(), None).unwrap_err().to_string();
        assert!(error.contains(TEMPLATE), "{error}");
    }

    #[test]
    fn instructions_go_before_the_question_where_a_template_refuses_them() {
        let template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}\
                        [INST] {{ messages[0]['content'] }} [/INST]";
        let chat = ChatTemplate::new(template.to_owned(), Vec::new()).unwrap();
        assert_eq!(chat.render("be kind", "who?").unwrap(), "[INST] be kind\n\nwho? [/INST]");
        let error = ChatTemplate::new("{{ raise_exception('never') }}".to_owned(), Vec::new()).unwrap_err();
        assert!(reason(&error).contains("never"), "{}", reason(&error));
    }

    #[test]
    fn json_is_written_as_python_does() {
        let template = "{{ messages[0]|tojson }}";
        let chat = ChatTemplate::new(template.to_owned(), Vec::new()).unwrap();
        let text = chat.render("", "a <b> & \"c\" é").unwrap();
        assert_eq!(text, r#"{"role": "user", "content": "a <b> & \"c\" é"}"#);
    }
}
