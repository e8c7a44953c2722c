//! Why an event is condemned: the closed set of `reason` headers and metric labels.

macro_rules! reasons {
    ($($name:ident = $text:literal, $help:literal;)+) => {
        /// The machine-readable reason of a dead letter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $help] $name,)+
        }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];

            /// As it stands in the header `reason` and the metric label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One line for a human.
            pub fn help(self) -> &'static str {
                match self { $(Self::$name => $help,)+ }
            }
        }
    };
}

reasons! {
    Json = "json", "not JSON, or cut short";
    Utf8 = "utf8", "not valid UTF-8";
    TooLarge = "too_large", "a message over ROLLCALL_MESSAGE_BYTES_MAX";
    TooManyEvents = "too_many_events", "a message of more events than ROLLCALL_MESSAGE_EVENTS_MAX";
    Nesting = "nesting", "nested deeper than ROLLCALL_NESTING_MAX";
    NotAnObject = "not_an_object", "JSON, but not an object";
    MissingId = "missing_id", "no id";
    IdType = "id_type", "an id that is not a string";
    IdLength = "id_length", "an id that is empty or over ROLLCALL_ID_BYTES_MAX";
    MissingOccurredAt = "missing_occurred_at", "no occurred_at (CloudEvents: time)";
    OccurredAtFormat = "occurred_at_format", "an occurred_at that is no RFC 3339 time";
    TooOld = "too_old", "older than ROLLCALL_EVENT_AGE_MAX_DAYS";
    TooNew = "too_new", "further ahead than ROLLCALL_CLOCK_SKEW_MAX_SECS";
    NulCharacter = "nul_character", "holds U+0000, which jsonb cannot";
    LoneSurrogate = "lone_surrogate", "holds half of a surrogate pair, which is no character";
    NumberRange = "number_range", "a number outside the range of a 64-bit float, or too long for jsonb";
    FieldType = "field_type", "a field of a set that no member can be made of";
    MemberLength = "member_length", "a member or group over ROLLCALL_MEMBER_BYTES_MAX";
    TooManyMembers = "too_many_members", "adds more than ROLLCALL_EVENT_MEMBERS_MAX members";
    CloudEvent = "cloud_event", "not a CloudEvent 1.0 that holds a JSON object";
    IdConflict = "id_conflict", "the identity is taken by another payload";
    StoreRefused = "store_refused", "Postgres refused the row: see sqlstate";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
