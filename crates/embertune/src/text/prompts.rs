//! What a text is for, and the words that a model wants in front of it for that.

/// What a text is for. Some models want different prompts for the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Text that searches.
    Query,
    /// Text that is found.
    #[doc(alias = "document")]
    Passage,
}

/// The words in front of every text of a role, with their closing space if they have one: `"query: "`. Empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// In front of queries.
    pub query: String,
    /// In front of passages.
    pub passage: String,
}

impl Prompts {
    /// The prompt of a role.
    pub fn of(&self, role: Role) -> &str {
        match role {
            Role::Query => &self.query,
            Role::Passage => &self.passage,
        }
    }
}
