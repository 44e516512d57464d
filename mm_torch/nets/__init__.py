"""Networks: observation and reward normalisers, towers, soft mixture of experts, policy and value heads."""
