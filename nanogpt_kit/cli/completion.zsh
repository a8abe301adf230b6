#compdef nanogpt-kit
# Completion of nanogpt-kit for zsh.

_nanogpt_kit_completion() {
    local -a answer open closed
    local line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    answer=("${(@f)$(
        _NANOGPT_KIT_COMPLETE=zsh_complete COMP_LINE=$line "${words[1]/#\~\//$HOME/}" </dev/null 2>/dev/null
    )}")
    # The first line is the character up to which the word is kept; the others begin with - where no space follows.
    if [[ $answer[1] == [=/] ]]; then
        compset -P "*$answer[1]"
    fi
    open=(${${(M)answer[2,-1]:#-*}#-})
    closed=(${${(M)answer[2,-1]:#+*}#+})
    local found=1
    (( $#open )) && _describe -V word open -S '' && found=0
    (( $#closed )) && _describe -V word closed && found=0
    return found
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _nanogpt_kit_completion "$@"
else
    compdef _nanogpt_kit_completion nanogpt-kit
fi
