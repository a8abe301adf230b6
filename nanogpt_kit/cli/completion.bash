# Completion of nanogpt-kit for bash 4.4 and newer.

_nanogpt_kit_completion() {
    local answer
    mapfile -t answer < <(
        # Words are passed as typed: bash splits them at "=" and ":", and gives the part it replaces as $2.
        _NANOGPT_KIT_COMPLETE=bash_complete COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="$2" \
            "${1/#\~\//$HOME/}" </dev/null 2>/dev/null
    )
    if [[ ${answer[0]} == nospace ]]; then
        compopt -o nospace
    fi
    COMPREPLY=("${answer[@]:1}")
}

complete -o nosort -F _nanogpt_kit_completion nanogpt-kit
