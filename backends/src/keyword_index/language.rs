//! Which language a text is in, as far as words are cut to their stems by it.

use raglan_pipeline::domain::Metadata;
use serde_json::Value;
use tantivy::tokenizer::Language;
use whatlang::Lang;

/// So many bytes of a document are looked at.
const SAMPLE: usize = 4096;
/// A guess from fewer letters is none.
const FEWEST_LETTERS: usize = 60;
/// Keys of a document's metadata that say its language, as a code: `de`, `de-AT`, `deu`.
const KEYS: [&str; 2] = ["language", "lang"];

/// How words are cut to stems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Tongue {
    /// Not at all: another language, or one whose words have no endings.
    Plain,
    /// By this language's rules.
    Stemmed(Language),
}

/// All of them, with their codes. English, which is taken where nothing can be told, comes first.
pub(super) const TONGUES: [(Tongue, &str, Option<Lang>); 19] = [
    (Tongue::Stemmed(Language::English), "en", Some(Lang::Eng)),
    (Tongue::Plain, "und", None),
    (Tongue::Stemmed(Language::Arabic), "ar", Some(Lang::Ara)),
    (Tongue::Stemmed(Language::Danish), "da", Some(Lang::Dan)),
    (Tongue::Stemmed(Language::Dutch), "nl", Some(Lang::Nld)),
    (Tongue::Stemmed(Language::Finnish), "fi", Some(Lang::Fin)),
    (Tongue::Stemmed(Language::French), "fr", Some(Lang::Fra)),
    (Tongue::Stemmed(Language::German), "de", Some(Lang::Deu)),
    (Tongue::Stemmed(Language::Greek), "el", Some(Lang::Ell)),
    (Tongue::Stemmed(Language::Hungarian), "hu", Some(Lang::Hun)),
    (Tongue::Stemmed(Language::Italian), "it", Some(Lang::Ita)),
    (Tongue::Stemmed(Language::Norwegian), "no", Some(Lang::Nob)),
    (Tongue::Stemmed(Language::Portuguese), "pt", Some(Lang::Por)),
    (Tongue::Stemmed(Language::Romanian), "ro", Some(Lang::Ron)),
    (Tongue::Stemmed(Language::Russian), "ru", Some(Lang::Rus)),
    (Tongue::Stemmed(Language::Spanish), "es", Some(Lang::Spa)),
    (Tongue::Stemmed(Language::Swedish), "sv", Some(Lang::Swe)),
    (Tongue::Stemmed(Language::Tamil), "ta", Some(Lang::Tam)),
    (Tongue::Stemmed(Language::Turkish), "tr", Some(Lang::Tur)),
];

impl Tongue {
    /// Where nothing can be told.
    pub(super) const DEFAULT: Self = Self::Stemmed(Language::English);

    /// Its code, of two letters or `und`.
    pub(super) fn code(self) -> &'static str {
        TONGUES.iter().find(|(tongue, ..)| *tongue == self).map_or("und", |(_, code, _)| code)
    }

    /// That of a code that [`code`](Self::code) gave.
    pub(super) fn of_code(code: &str) -> Option<Self> {
        TONGUES.iter().find(|(_, known, _)| *known == code).map(|(tongue, ..)| *tongue)
    }

    /// That of a document: what its metadata says, or else what its text looks like.
    pub(super) fn of_document<'a>(metadata: &Metadata, texts: impl Iterator<Item = &'a str>) -> Self {
        Self::of_metadata(metadata).unwrap_or_else(|| Self::of_text(&sample(texts)))
    }

    /// What the metadata says.
    pub(super) fn of_metadata(metadata: &Metadata) -> Option<Self> {
        let said = KEYS.iter().find_map(|key| metadata.get(*key).and_then(Value::as_str))?;
        let code = said.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        match code.as_str() {
            "nb" | "nn" => Some(Self::Stemmed(Language::Norwegian)),
            _ => Self::of_code(&code).or_else(|| Lang::from_code(code).map(Self::of_lang)).or_else(|| {
                // A code of two letters that is none of ours is that of another language; anything else says nothing.
                (said.len() == 2).then_some(Self::Plain)
            }),
        }
    }

    /// What a text looks like. Where that is not clear, or the text is short, the default.
    fn of_text(text: &str) -> Self {
        if text.chars().filter(|c| c.is_alphabetic()).take(FEWEST_LETTERS).count() < FEWEST_LETTERS {
            return Self::DEFAULT;
        }
        match whatlang::detect(text) {
            Some(guess) if guess.is_reliable() => Self::of_lang(guess.lang()),
            _ => Self::DEFAULT,
        }
    }

    fn of_lang(lang: Lang) -> Self {
        TONGUES.iter().find(|(_, _, known)| *known == Some(lang)).map_or(Self::Plain, |(tongue, ..)| *tongue)
    }
}

/// The beginnings of texts, together no longer than they need to be.
fn sample<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut sample = String::new();
    for text in texts {
        let room = SAMPLE.saturating_sub(sample.len());
        if room == 0 {
            break;
        }
        sample.push_str(&text[..text.floor_char_boundary(room)]);
        sample.push('\n');
    }
    sample
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The first article of the Universal Declaration of Human Rights and the like, in the words of the United Nations.
    const TEXTS: [(&str, &str); 20] = [
        (
            "en",
            "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
        ),
        (
            "ar",
            "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح الإخاء.",
        ),
        (
            "da",
            "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft og samvittighed, og de bør handle mod hverandre i en broderskabets ånd.",
        ),
        (
            "nl",
            "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
        ),
        (
            "fi",
            "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki ja omatunto, ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
        ),
        (
            "fr",
            "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
        ),
        (
            "de",
            "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
        ),
        (
            "el",
            "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση.",
        ),
        (
            "hu",
            "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel és lelkiismerettel bírván, egymással szemben testvéri szellemben kell hogy viseltessenek.",
        ),
        (
            "it",
            "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
        ),
        (
            "no",
            "Alle mennesker er født frie og med samme menneskeverd og menneskerettigheter. De er utstyrt med fornuft og samvittighet og bør handle mot hverandre i brorskapets ånd.",
        ),
        (
            "pt",
            "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência, devem agir uns para com os outros em espírito de fraternidade.",
        ),
        (
            "ro",
            "Toate ființele umane se nasc libere și egale în demnitate și în drepturi. Ele sunt înzestrate cu rațiune și conștiință și trebuie să se comporte unele față de altele în spiritul fraternității.",
        ),
        (
            "ru",
            "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
        ),
        (
            "es",
            "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
        ),
        (
            "sv",
            "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete och bör handla gentemot varandra i en anda av broderskap.",
        ),
        ("ta", "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும் உரிமைகளிலும் சமமானவர்கள்."),
        (
            "tr",
            "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
        ),
        (
            "und",
            "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
        ),
        (
            "und",
            "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
        ),
    ];

    #[test]
    fn every_language_with_stems_is_told_from_the_others() {
        let told: Vec<&str> = TEXTS.iter().map(|(_, text)| Tongue::of_text(text).code()).collect();
        assert_eq!(told, TEXTS.map(|(code, _)| code));
        for (_, code, _) in TONGUES {
            assert!(told.contains(&code), "{code} has a sample");
        }
    }

    #[test]
    fn what_is_not_clear_is_the_default() {
        for text in ["", "42", "Straße 7", "fn main() { println!(\"{}\", x); }", "ISO 8601, RFC 3339, UTF-8"]
        {
            assert_eq!(Tongue::of_text(text), Tongue::DEFAULT, "{text:?}");
        }
    }

    #[test]
    fn metadata_is_believed() {
        let said = |metadata: Value| Tongue::of_metadata(metadata.as_object().unwrap()).map(Tongue::code);
        assert_eq!(said(json!({"language": "de"})), Some("de"));
        assert_eq!(said(json!({"lang": "pt-BR"})), Some("pt"));
        assert_eq!(said(json!({"lang": "FRA"})), Some("fr"));
        assert_eq!(said(json!({"lang": "nn"})), Some("no"));
        assert_eq!(said(json!({"lang": "pl"})), Some("und"));
        assert_eq!(said(json!({"lang": "german, mostly"})), None);
        assert_eq!(said(json!({"lang": 7})), None);
        assert_eq!(said(json!({})), None);
        let german = TEXTS.iter().find(|(code, _)| *code == "de").unwrap().1;
        let metadata = json!({"language": "fr"});
        assert_eq!(Tongue::of_document(metadata.as_object().unwrap(), [german].into_iter()).code(), "fr");
        assert_eq!(Tongue::of_document(&Metadata::default(), [german].into_iter()).code(), "de");
    }

    #[test]
    fn codes_are_read_back() {
        for (tongue, code, _) in TONGUES {
            assert_eq!((tongue.code(), Tongue::of_code(code)), (code, Some(tongue)));
        }
    }

    #[test]
    fn a_sample_is_bounded_and_ends_between_characters() {
        let long = "ä".repeat(SAMPLE);
        let sample = sample([long.as_str(), "more"].into_iter());
        assert!(sample.len() <= SAMPLE + 1 && sample.len() >= SAMPLE - 3);
    }
}
