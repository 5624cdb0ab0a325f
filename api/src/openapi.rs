//! The description of the API, generated from the handlers.

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use utoipa::{
    IntoResponses, Modify, OpenApi as _,
    openapi::{
        Content, HeaderBuilder, Info, License, OpenApi, Ref, RefOr, Response, ResponseBuilder, Type,
        path::{Operation, PathItem},
        schema::ObjectBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::error::{PROBLEM_JSON, ProblemBody};

macro_rules! problem {
    ($name:ident, $status:literal, $description:literal) => {
        #[doc = $description]
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([($status.to_owned(), RefOr::T(problem_response($description)))])
            }
        }
    };
}

problem!(NotFound, "404", "There is no such thing, or it is another tenant's.");
problem!(Conflict, "409", "It contradicts the state of things; `code` tells how.");
problem!(Gone, "410", "It was kept for a while and is gone now.");
problem!(TooLarge, "413", "The body or a part of it is too large.");
problem!(Unsupported, "415", "The media type is not taken here.");
problem!(Invalid, "422", "A field is not as it must be; `field` names it.");
problem!(Overloaded, "503", "Full or not available now; `Retry-After` tells when to try again.");

/// The names that fields may have as values. The domain's own types stand behind them; these only tell of them.
pub(crate) mod names {
    use utoipa::ToSchema;

    macro_rules! names {
        ($(#[$doc:meta])* $name:ident: $($variant:ident)*) => {
            $(#[$doc])*
            #[derive(ToSchema)]
            #[schema(rename_all = "snake_case")]
            #[allow(dead_code, reason = "describes values; is never made")]
            pub(crate) enum $name { $($variant),* }
        };
    }

    names!(
        /// How urgent a job is. Lower classes wait, but are never starved.
        PriorityName: Interactive Normal Batch
    );
    names!(
        /// Whether an answer may come from the cache.
        CacheName: Use Bypass
    );
    names!(
        /// Which searches take part.
        ModeName: Hybrid Vector Keyword
    );
    names!(
        /// What a job does.
        KindName: Query Ingestion
    );
    names!(
        /// Where a job stands; the last four are final.
        StatusName: Queued Retrieving Generating Parsing Embedding Indexing Succeeded Failed Cancelled Expired
    );
    names!(
        /// Where a delivery stands.
        DeliveryStatusName: Pending Delivered Dead
    );

    /// An ending that a webhook may tell of.
    #[derive(ToSchema)]
    #[allow(dead_code, reason = "describes values; is never made")]
    pub(crate) enum EndingName {
        #[schema(rename = "job.succeeded")]
        Succeeded,
        #[schema(rename = "job.failed")]
        Failed,
        #[schema(rename = "job.cancelled")]
        Cancelled,
        #[schema(rename = "job.expired")]
        Expired,
    }
}

fn problem_response(description: &str) -> Response {
    let schema = RefOr::Ref(Ref::from_schema_name("ProblemBody"));
    ResponseBuilder::new().description(description).content(PROBLEM_JSON, Content::new(Some(schema))).build()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    components(schemas(ProblemBody, crate::routes::multiplex::Command)),
    modifiers(&Frame)
)]
struct Skeleton;

struct Frame;

impl Modify for Frame {
    fn modify(&self, document: &mut OpenApi) {
        let mut info = Info::new("Raglan", env!("CARGO_PKG_VERSION"));
        info.description = Some(
            "Answers questions from an organisation's own documents, as asynchronous jobs.\n\n\
             Durations have their unit in the name, times are RFC 3339 in UTC, and every error is an RFC 9457 \
             `application/problem+json` with a stable `code` and the `field` at fault."
                .to_owned(),
        );
        let mut license = License::new("MIT OR Apache-2.0");
        license.identifier = Some("MIT OR Apache-2.0".to_owned());
        info.license = Some(license);
        document.info = info;
        let tags = [
            ("Jobs", "Ask, read, wait, cancel."),
            ("Following a job", "Events as they happen, over Server-Sent Events or WebSockets."),
            ("Webhooks", "Deliveries, signed as Standard Webhooks 1.0.0 says."),
            ("Documents and collections", "What questions are answered from."),
            ("Search", "Retrieval alone."),
            ("Operations", "Health, metrics, and this description."),
        ];
        document.tags = Some(
            tags.into_iter()
                .map(|(name, description)| {
                    TagBuilder::new().name(name).description(Some(description)).build()
                })
                .collect(),
        );
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key. Not needed while authentication is off."))
            .build();
        document.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(bearer));
        document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    }
}

/// The document that routes are added to.
pub(crate) fn skeleton() -> OpenApi {
    Skeleton::openapi()
}

/// Adds what every route has: how requests fail that do not even reach it, and the header with the request's id.
pub(crate) fn complete(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            complete_operation(operation);
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn complete_operation(operation: &mut Operation) {
    let is_open = operation.security.is_some();
    let responses = &mut operation.responses.responses;
    let mut add = |status: &str, description: &str| {
        responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(problem_response(description)));
    };
    if !is_open {
        add("400", "The request cannot be understood; `field` names the parameter or header at fault.");
        add("401", "The API key is missing or not known.");
        add("503", "Full or not available now; `Retry-After` tells when to try again.");
    }
    add("default", "Any other error.");
    for response in responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        let id = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .description(Some("The request's id, in logs and problems: yours where you sent one, else ours."))
            .build();
        response.headers.insert("x-request-id".to_owned(), id.into());
    }
}

/// The document as JSON, as `GET /openapi.json` answers it and as the repository keeps it.
pub(crate) fn json() -> Bytes {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| {
        let mut text = crate::openapi().to_pretty_json().unwrap_or_default();
        text.push('\n');
        Bytes::from(text)
    });
    JSON.clone()
}
